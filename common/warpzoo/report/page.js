(() => {
  const section = document.getElementById("compare"), row = section.querySelector(".row");
  const pairs = { "overlay: before | after": ["overlay_before", "overlay"],
                  "fixed | moving before": ["fixed", "before"], "fixed | warped after": ["fixed", "warped"] };
  const controls = section.querySelector(".controls"), slider = section.querySelector("input"), choices = [];
  const split = value => { slider.value = value; row.style.setProperty("--at", value + "%"); };
  const choose = (button, names) => {
    choices.forEach(other => other.setAttribute("aria-pressed", other === button));
    row.querySelectorAll("img").forEach((image, number) => {
      const source = document.getElementById(names[number % 2] + Math.floor(number / 2));
      image.src = source.src; image.alt = source.alt;
    });
  };
  document.querySelectorAll("#pictures [id^=fixed]").forEach(image => {
    const figure = image.closest("figure").cloneNode(true), picture = figure.querySelector(".picture");
    const below = figure.querySelector("img");
    below.removeAttribute("id"); below.draggable = false;
    below.after(below.cloneNode());
    picture.addEventListener("pointermove", event => {
      const box = picture.getBoundingClientRect();
      split(Math.min(100, Math.max(0, 100 * (event.clientX - box.left) / box.width)));
    });
    const caption = figure.querySelector("figcaption");
    caption.textContent = caption.textContent.replace(/^fixed(, )?/, "");
    row.append(figure);
  });
  Object.entries(pairs).forEach(([name, names]) => {
    const button = document.createElement("button");
    button.textContent = name; button.onclick = () => choose(button, names);
    choices.push(button); controls.insertBefore(button, slider);
  });
  const flicker = document.createElement("button");
  flicker.textContent = "flicker"; flicker.setAttribute("aria-pressed", false);
  flicker.onclick = () => flicker.setAttribute("aria-pressed", section.classList.toggle("flicker"));
  controls.append(flicker);
  slider.oninput = () => split(slider.value);
  choose(choices[0], pairs["overlay: before | after"]); split(50); section.hidden = false;
})();
