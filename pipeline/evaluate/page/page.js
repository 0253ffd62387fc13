"use strict";
const at = id => document.getElementById(id);

// Tips: for a mouse, a finger and the keyboard.
const tip = at("tip");
let told = null;
function tell(element) {
  const text = element && element.dataset.tip;
  if (told) told.removeAttribute("aria-describedby");
  told = text ? element : null;
  tip.hidden = !text;
  if (!text) return;
  element.setAttribute("aria-describedby", "tip");
  tip.textContent = text;
  const box = element.getBoundingClientRect(), width = document.documentElement.clientWidth;
  const left = Math.min(Math.max(8, box.left), width - tip.offsetWidth - 8);
  const above = box.top > tip.offsetHeight + 12;
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${(above ? box.top - tip.offsetHeight - 7 : box.bottom + 7) + scrollY}px`;
}
const tipped = event => event.target.closest ? event.target.closest("[data-tip]") : null;
document.addEventListener("pointerover", event => { if (event.pointerType === "mouse") tell(tipped(event)); });
document.addEventListener("focusin", event => tell(tipped(event)));
document.addEventListener("focusout", () => tell(null));
document.addEventListener("click", event => tell(tipped(event)));
document.addEventListener("keydown", event => { if (event.key === "Escape") tell(null); });

// Players: the judged video leads, the reference follows it.
const players = [...document.querySelectorAll(".player")].filter(one => one.querySelector("video")).map(card => {
  const judged = card.querySelector(".judged"), reference = card.querySelector(".reference");
  const play = card.querySelector(".play"), seek = card.querySelector(".seek"), time = card.querySelector(".time");
  const label = play.getAttribute("aria-label").replace(/^Play /, "");
  function show() {
    const length = judged.duration || 0;
    seek.value = length ? 1000 * judged.currentTime / length : 0;
    seek.setAttribute("aria-valuetext", `${judged.currentTime.toFixed(1)} of ${length.toFixed(1)} s`);
    time.textContent = `${judged.currentTime.toFixed(1)} / ${length.toFixed(1)} s`;
    play.textContent = judged.paused ? "▶" : "❚❚";
    play.setAttribute("aria-label", `${judged.paused ? "Play" : "Pause"} ${label}`);
  }
  function inStep() {
    show();
    if (judged.paused) return;
    if (reference) {
      const off = judged.currentTime - reference.currentTime;
      const over = judged.currentTime >= (reference.duration || 0);
      if (over) reference.pause();
      else if (Math.abs(off) > 0.2) { if (!reference.seeking) reference.currentTime = judged.currentTime; }
      else reference.playbackRate = Math.min(1.5, Math.max(0.5, 1 + 2 * off));
      if (!over && reference.paused) reference.play().catch(() => {});
    }
    requestAnimationFrame(inStep);
  }
  function place(seconds) {
    judged.currentTime = seconds;
    if (reference) reference.currentTime = Math.min(seconds, reference.duration || seconds);
  }
  function toggle() {
    if (!judged.paused) return judged.pause();
    for (const other of players) if (other !== judged) other.pause();
    if (judged.ended) place(0);
    judged.play().catch(() => { time.textContent = "cannot be played here"; });
  }
  judged.addEventListener("play", inStep);
  for (const name of ["pause", "seeked", "loadedmetadata", "ended"]) judged.addEventListener(name, show);
  judged.addEventListener("pause", () => {
    if (!reference) return;
    reference.pause();
    reference.currentTime = Math.min(judged.currentTime, reference.duration || 0);
  });
  judged.addEventListener("error", () => { time.textContent = "cannot be played here"; });
  play.addEventListener("click", toggle);
  for (const video of [judged, reference]) if (video) video.addEventListener("click", toggle);
  seek.addEventListener("input", () => place(seek.value / 1000 * (judged.duration || 0)));
  show();
  return judged;
});

// The table of clips: rows are [name, language, speaker, why not measured, numbers ...].
const PAGE_ROWS = 50, FIXED = 4;
const { metrics, rows } = JSON.parse(at("data").textContent);
const names = ["Clip", "Language", "Speaker"];
let sorted = metrics.length ? FIXED : 0, rising = true, page = 0;

function written(value, metric) {
  if (value === null) return "–";
  let places = metric.decimals;
  while (value !== 0 && Math.abs(value) < 0.95 * 10 ** -places && places < 8) places += 1;
  return value.toFixed(places).replace("-", "−");
}
function options(select, values, all) {
  select.replaceChildren(...[[-1, all], ...values].map(([value, text]) => new Option(text, value)));
}
function choices(column) {
  return [...new Set(rows.map(row => row[column]).filter(text => text))].sort().map(text => [text, text]);
}
function columns() {
  const main = metrics.flatMap((metric, i) => metric.main || i + FIXED === sorted ? [i + FIXED] : []);
  const used = [1, 2].filter(column => rows.some(row => row[column]));
  return [0, ...used, ...main];
}
function chosen() {
  const find = at("find").value.toLowerCase(), language = at("language").value, speaker = at("speaker").value;
  const column = Number(at("metric").value), from = parseFloat(at("from").value), to = parseFloat(at("to").value);
  return rows.filter(row =>
    row[0].toLowerCase().includes(find) &&
    (language === "-1" || row[1] === language) &&
    (speaker === "-1" || row[2] === speaker) &&
    (isNaN(from) || (row[column] !== null && row[column] >= from)) &&
    (isNaN(to) || (row[column] !== null && row[column] <= to)));
}
function compared(one, other) {
  const a = one[sorted], b = other[sorted];
  if (a === b) return 0;
  if (a === null || a === "") return 1;  // what is missing stays at the end
  if (b === null || b === "") return -1;
  return (a < b ? -1 : 1) * (rising ? 1 : -1);
}
function cell(kind, text, css) {
  const made = document.createElement(kind);
  made.textContent = text;
  made.className = css;
  return made;
}
const cssOf = column => [column >= FIXED ? "number" : "", column && column !== sorted ? "side" : ""].join(" ");
function draw() {
  const found = chosen().sort(compared), shown = columns();
  page = Math.max(0, Math.min(page, Math.ceil(found.length / PAGE_ROWS) - 1));
  const head = document.createElement("tr");
  for (const column of shown) {
    const metric = metrics[column - FIXED], th = cell("th", "", cssOf(column)), button = document.createElement("button");
    button.type = "button";
    button.textContent = metric ? metric.title + (metric.unit ? `, ${metric.unit}` : "") : names[column];
    if (column === sorted) {
      th.setAttribute("aria-sort", rising ? "ascending" : "descending");
      button.textContent += rising ? " ▲" : " ▼";
    }
    button.addEventListener("click", () => {
      rising = column === sorted ? !rising : true;
      sort(column);
      at("list").querySelector("[aria-sort] button").focus();
    });
    th.append(button);
    head.append(th);
  }
  at("list").tHead.replaceChildren(head);
  at("list").tBodies[0].replaceChildren(...found.slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS).map(row => {
    const line = document.createElement("tr");
    for (const column of shown) {
      const made = cell("td", column < FIXED ? "" : written(row[column], metrics[column - FIXED]), cssOf(column));
      if (column < FIXED) made.append(cell("bdi", row[column], ""));
      if (column === 0 && row[3]) made.append(" ", cell("span", row[3], "why"));
      line.append(made);
    }
    return line;
  }));
  const first = page * PAGE_ROWS + 1, last = Math.min(found.length, first + PAGE_ROWS - 1);
  const of = found.length.toLocaleString("en");
  at("where").textContent = found.length ? `${first.toLocaleString("en")} to ${last.toLocaleString("en")} of ${of}` : "No clip fits.";
  at("previous").disabled = page === 0;
  at("next").disabled = last >= found.length;
}
function sort(column) {
  sorted = column;
  if (column >= FIXED) at("metric").value = column;
  page = 0;
  draw();
}
options(at("language"), choices(1), "all");
options(at("speaker"), choices(2), "all");
at("metric").replaceChildren(...metrics.map((metric, i) => new Option(metric.title, i + FIXED)));
for (const column of [1, 2]) {
  if (choices(column).length < 2) at(["", "language", "speaker"][column]).parentElement.hidden = true;
}
for (const id of ["find", "language", "speaker", "from", "to"]) {
  at(id).addEventListener("input", () => { page = 0; draw(); });
}
at("metric").addEventListener("input", () => { rising = true; sort(Number(at("metric").value)); });
at("previous").addEventListener("click", () => { page -= 1; draw(); });
at("next").addEventListener("click", () => { page += 1; draw(); });
const filters = document.querySelector(".filters");
filters.addEventListener("submit", event => event.preventDefault());
filters.hidden = rows.length < 2;
document.querySelector(".pager").hidden = rows.length < 2;
draw();
