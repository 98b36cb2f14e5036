"""What does not change from page to page: the style sheet and the few lines of script of `page`.

The page stands without the script: it only builds the comparison to swipe, out of the pictures that are there.
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b6169; --line: #dfe2e6; --paper: #fff; --panel: #f6f7f9;
  --accent: #0b6bcb; --good: #1a7f4b; --fair: #a15c00; --bad: #c22f2f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9ba3ad; --line: #343a41; --paper: #15181c;
  --panel: #1d2126; --accent: #6fb1f5; --good: #5cc98f; --fair: #e5a54b; --bad: #f08080; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.2rem 1.4rem 3rem; max-width: 1080px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.65rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .2rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .35rem; }
p { margin: .3rem 0; max-width: 95ch; text-wrap: pretty; }
.soft, figcaption, caption { color: var(--soft); }
.soft { font-size: .92em; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: .7rem;
  margin: 1.4rem 0 .8rem; }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: .65rem .8rem; }
.card b { display: block; white-space: nowrap; font-size: 1.15rem; font-weight: 600;
  font-variant-numeric: tabular-nums; line-height: 1.3; }
.card b i { font-style: normal; font-weight: 400; color: var(--soft); font-size: .8em; }
.card span { font-size: .86rem; color: var(--soft); }
ul.said { list-style: none; padding: 0; margin: 1rem 0 0; }
ul.said li { padding: .3rem 0 .3rem 1.5rem; position: relative; max-width: 95ch; text-wrap: pretty; }
ul.said li::before { content: ""; position: absolute; left: .2rem; top: .82em; width: .6rem; height: .6rem;
  border-radius: 50%; background: var(--soft); }
li.good::before { background: var(--good) !important; } li.fair::before { background: var(--fair) !important; }
li.bad::before { background: var(--bad) !important; }
.row { display: grid; gap: .7rem; align-items: end; margin: .3rem 0 .9rem; }
.small .row { max-width: 780px; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figcaption { font-size: .84rem; margin-top: .25rem; }
.picture { position: relative; line-height: 0; border-radius: 6px; overflow: hidden; background: #000; }
.picture img { width: 100%; height: 100%; display: block; }
.picture svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.picture .side { position: absolute; color: #ffd54a; font: 600 .72rem/1 system-ui, sans-serif;
  text-shadow: 0 0 3px #000; }
.side.t { top: 5px; left: 50%; transform: translateX(-50%); } .side.b { bottom: 5px; left: 50%;
  transform: translateX(-50%); }
.side.l { left: 6px; top: 50%; transform: translateY(-50%); } .side.r { right: 6px; top: 50%;
  transform: translateY(-50%); }
.grid path { fill: none; stroke: #7fd4ff; stroke-width: 1; vector-effect: non-scaling-stroke; }
.bar { display: flex; align-items: center; gap: .6rem; font-size: .84rem; color: var(--soft); margin: .5rem 0 .8rem; }
.bar i { flex: 0 1 200px; height: .75rem; border-radius: 3px; border: 1px solid var(--line); }
.bar u { text-decoration: none; display: inline-flex; align-items: center; gap: .35rem; margin-left: 1rem; }
.bar u::before { content: ""; width: .75rem; height: .75rem; background: #000; border: 1px solid var(--line); }
.key { display: inline-block; width: .75em; height: .75em; border-radius: 2px; vertical-align: -.05em;
  margin: 0 .15em; }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 0 2.4rem;
  align-items: start; }
table { border-collapse: collapse; width: 100%; margin: .7rem 0; font-size: .92rem; break-inside: avoid; }
caption { text-align: left; font-weight: 600; color: var(--ink); padding-bottom: .2rem; }
th, td { text-align: right; padding: .28rem .1rem .28rem .9rem; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { font-weight: 500; color: var(--soft); }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; overflow-wrap: anywhere; }
tr.total td { font-weight: 600; border-bottom: 0; }
table.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.words td:first-child { white-space: nowrap; width: 1%; color: var(--soft); }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .75rem .95rem;
  font-size: .86rem;
  white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0 1rem;
  font-family: ui-monospace, Menlo, Consolas, monospace; }
.compare .controls { display: flex; flex-wrap: wrap; gap: .5rem .9rem; align-items: center; margin: .6rem 0; }
.compare button { font: inherit; font-size: .88rem; padding: .28rem .8rem; border: 1px solid var(--line);
  border-radius: 999px;
  background: var(--panel); color: var(--ink); cursor: pointer; }
.compare button[aria-pressed=true] { background: var(--accent); border-color: var(--accent); color: var(--paper); }
.compare input { flex: 1 1 180px; max-width: 340px; accent-color: var(--accent); }
.compare .picture { cursor: ew-resize; touch-action: pan-y; user-select: none; }
.compare .picture img + img { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at)); }
.compare .picture::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px;
  margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; }
.compare.flicker .picture::after { display: none; }
.compare.flicker .picture img + img { clip-path: none; animation: flicker 1.2s steps(1) infinite; }
@keyframes flicker { 50% { opacity: 0; } }
@media (max-width: 640px) { .row.volume { grid-template-columns: 1fr !important; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #ccc; --paper: #fff; --panel: #fff;
  --good: #1a7f4b;
  --fair: #a15c00; --bad: #c22f2f; } body { padding: 0; max-width: none; font-size: 10.5pt; }
  .compare { display: none; }
  .row.volume { max-width: 11cm; } h2, h3 { break-after: avoid; } .block { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

SCRIPT = """
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
    const words = figure.querySelector("figcaption");
    words.textContent = words.textContent.replace(/^fixed(, )?/, "");
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
"""
