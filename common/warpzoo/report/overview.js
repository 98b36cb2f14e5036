(() => {
  const list = document.querySelector(".rows"), controls = document.querySelector(".controls");
  const search = controls.querySelector("input"), count = controls.querySelector("output");
  const kinds = [...controls.querySelectorAll("[data-kind]")], range = controls.querySelector(".range");
  const heads = [...document.querySelectorAll("[data-sort]")], bars = [...document.querySelectorAll("[data-low]")];
  const more = document.querySelector("template").content, atOnce = list.children.length;
  const pairs = [...list.children, ...more.children].map(row => ({
    row, name: row.children[1].firstChild.textContent, text: row.children[1].textContent.toLowerCase(),
    kinds: row.dataset.kinds.split(" "),
    values: row.dataset.values.split(",").map(value => value === "" ? NaN : Number(value)),
  }));
  let kind = "", bar = null, fitting = pairs;

  const showMore = () => {
    const from = list.children.length;
    list.append(...fitting.slice(from, from + atOnce).map(pair => pair.row));
  };
  const end = list.parentNode.appendChild(document.createElement("p"));
  new IntersectionObserver(seen => seen.at(-1).isIntersecting && showMore(), { rootMargin: "1000px" }).observe(end);

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const metric = bar && Number(bar.closest("figure").dataset.metric);
    const [low, high] = bar ? [Number(bar.dataset.low), Number(bar.dataset.high)] : [0, 0];
    const last = bar && !bar.nextElementSibling;
    fitting = pairs.filter(pair => {
      const value = bar ? pair.values[metric] : 0;
      return (!kind || pair.kinds.includes(kind)) && words.every(word => pair.text.includes(word))
        && (!bar || (value >= low && (value < high || (last && value <= high))));
    });
    list.replaceChildren();
    showMore();
    count.textContent = `${fitting.length} of ${pairs.length}`;
    kinds.forEach(button => button.setAttribute("aria-pressed", button.dataset.kind === kind));
    bars.forEach(other => other.classList.toggle("chosen", other === bar));
    range.hidden = !bar;
    if (bar) range.textContent = bar.closest("figure").querySelector("h3").textContent + " "
      + bar.querySelector("title").textContent.split(":")[0] + " ×";
  };

  const sort = (head, worstFirst) => {
    const column = head.dataset.sort, sign = (worstFirst ? 1 : -1) * ("lower" in head.dataset ? -1 : 1);
    const byName = (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true });
    // what has no number is worse than any
    const missing = pair => Number.isNaN(pair.values[column]) ? 0 : 1;
    pairs.sort(column === "name" ? (a, b) => (worstFirst ? 1 : -1) * byName(a, b)
      : (a, b) => missing(a) - missing(b) || sign * (a.values[column] - b.values[column]) || byName(a, b));
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", worstFirst ? "descending" : "ascending");
    filter();
  };

  let waiting;
  search.oninput = () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); };
  kinds.forEach(button => button.onclick = () => { kind = button.dataset.kind; filter(); });
  bars.forEach(one => one.onclick = () => { bar = bar === one ? null : one; filter(); });
  range.onclick = () => { bar = null; filter(); };
  heads.forEach(head => head.onclick = () => sort(head, head.getAttribute("aria-sort") !== "descending"));
  controls.hidden = false;
  filter();
})();
