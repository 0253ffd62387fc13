"use strict";
const at = id => document.getElementById(id);
const { words, measures, clips, media, base } = JSON.parse(at("data").textContent);

// A clip is [status, reason, language, speaker, source, start, end, detail, key, measures ...]; the first five are
// places in `words`, -1 for none. The first clips have media, at the same place in `media`.
const KINDS = ["status", "reason", "language", "speaker", "source"];
const START = 5, END = 6, DETAIL = 7, KEY = 8, MEASURES = 9, PAGE_CLIPS = 24;
const word = (clip, column) => clip[column] < 0 ? "" : words[KINDS[column]][clip[column]];
const fileName = uri => uri.split("/").pop();
let page = 0, falling = false, fit = [];

function made(kind, css, text) {
  const element = document.createElement(kind);
  if (css) element.className = css;
  if (text !== undefined) element.textContent = text;
  return element;
}
function clock(seconds) {
  const whole = Math.floor(seconds + 1e-6), two = number => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
function written(value, { unit, format }) {
  const sign = format[0] === "+" && value > 0 ? "+" : "";
  const digits = value.toFixed(Number(format.match(/\d/)[0]));
  return `${sign}${digits} ${Math.abs(digits) === 1 && unit === "frames" ? "frame" : unit}`.trim();
}

// Geometry: outlines in the crop, and the crop in the frame of its source (report/overlay.py).
const unpacked = new Map();
async function geometryOf(index) {
  const overlay = media[index] && media[index].overlay;
  if (!overlay || typeof DecompressionStream === "undefined") return null;
  if (!unpacked.has(index)) {
    const bytes = Uint8Array.from(atob(overlay.points), letter => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const points = new Uint8Array(await new Response(stream).arrayBuffer());
    const stride = 2 * (overlay.counts.reduce((sum, count) => sum + count, 0) + 6);
    for (let i = stride; i < points.length; i++) points[i] += points[i - stride];
    unpacked.set(index, { ...overlay, points, stride, frames: points.length / stride });
  }
  return unpacked.get(index);
}
function path(pen, points, scale) {
  pen.beginPath();
  points.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](...scale(x, y)));
  pen.closePath();
}
function drawGeometry(canvas, geometry, seconds) {
  const side = canvas.width = canvas.height = Math.round(canvas.clientWidth * (devicePixelRatio || 1));
  const pen = canvas.getContext("2d"), { points, stride, counts, aspect } = geometry;
  let next = stride * Math.max(0, Math.min(geometry.frames - 1, Math.floor(seconds * 25 + 0.01)));
  const take = count => Array.from({ length: count }, () => [points[next++] / 255, points[next++] / 255]);
  const inCrop = (x, y) => [x * side, y * side];
  pen.lineWidth = Math.max(1, side / 170);
  const [mouth, opening, face, alignment] = counts.map(take);
  path(pen, mouth, inCrop);
  pen.fillStyle = "rgba(255, 64, 129, .35)";
  pen.fill();
  for (const [outline, colour] of [[mouth, "#ff4081"], [opening, "#ffd740"], [face, "#40c4ff"]]) {
    path(pen, outline, inCrop);
    pen.strokeStyle = colour;
    pen.stroke();
  }
  pen.fillStyle = "#b2ff59";
  for (const [x, y] of alignment) {
    pen.beginPath();
    pen.arc(x * side, y * side, side / 90, 0, 7);
    pen.fill();
  }
  // The frame of the source, small, in the corner.
  const width = side * 0.28 * Math.min(1, aspect), height = width / aspect, edge = side * 0.02;
  const [crop, box] = [take(4), take(2)].map(list => list.map(([x, y]) => [2 * x - 0.5, 2 * y - 0.5]));
  const left = side - edge - width, top = side - edge - height;
  const inFrame = (x, y) => [left + x * width, top + y * height];
  pen.fillStyle = "rgba(0, 0, 0, .55)";
  pen.fillRect(left, top, width, height);
  pen.lineWidth = Math.max(1, side / 250);
  pen.strokeStyle = "#fff";
  pen.strokeRect(left, top, width, height);
  const corners = [box[0], [box[1][0], box[0][1]], box[1], [box[0][0], box[1][1]]];
  for (const [outline, colour] of [[crop, "#ffab40"], [corners, "#40c4ff"]]) {
    path(pen, outline, inFrame);
    pen.strokeStyle = colour;
    pen.stroke();
  }
}

// A picture that becomes a player when it is pressed. Controls lie below, never over the mouth.
let playing = null;
function player(index, name) {
  const medium = media[index], box = made("div", "player"), screen = made("div", "screen");
  const picture = made("img"), canvas = made("canvas");
  picture.alt = "";
  picture.loading = "lazy";
  picture.src = base + medium.poster;
  picture.addEventListener("error", () => screen.append(made("p", "gone", "its file is not there any more")), { once: true });
  canvas.hidden = true;
  screen.append(picture, canvas);
  box.append(screen);
  let seconds = medium.poster_s, video = null;
  async function overlay() {
    const geometry = at("geometry").checked ? await geometryOf(index).catch(() => null) : null;
    canvas.hidden = !geometry;
    if (geometry) drawGeometry(canvas, geometry, seconds);
  }
  box.overlay = overlay;
  if (!medium.video) return box;

  const bar = made("div", "bar-of-player"), play = made("button", "play", "▶"), time = made("span", "time");
  const seek = made("input", "seek");
  play.type = "button";
  Object.assign(seek, { type: "range", min: 0, max: 1000, value: 0 });
  seek.setAttribute("aria-label", `Position in ${name}`);
  bar.append(play, seek, time);
  box.append(bar);
  function show() {
    const length = video ? video.duration || 0 : 0, now = video ? video.currentTime : 0;
    seek.value = length ? 1000 * now / length : 0;
    time.textContent = length ? `${clock(now)} / ${clock(length)}` : "";
    play.textContent = video && !video.paused ? "❚❚" : "▶";
    play.setAttribute("aria-label", `${video && !video.paused ? "Pause" : "Play"} ${name}`);
  }
  function follow() {
    seconds = video.currentTime;
    show();
    if (at("geometry").checked) overlay();
    if (!video.paused) requestAnimationFrame(follow);
  }
  function start() {
    if (video) return;
    video = made("video");
    Object.assign(video, { playsInline: true, loop: true, poster: picture.src, src: base + medium.video });
    for (const event of ["play", "pause", "seeked", "loadedmetadata"]) video.addEventListener(event, follow);
    video.addEventListener("error", () => { time.textContent = "cannot be played"; });
    picture.replaceWith(video);
  }
  function toggle() {
    start();
    if (!video.paused) return video.pause();
    if (playing && playing !== video) playing.pause();
    playing = video;
    video.play().catch(() => {});
  }
  play.addEventListener("click", toggle);
  screen.addEventListener("click", toggle);
  seek.addEventListener("input", () => {
    start();
    const place = () => { video.currentTime = seek.value / 1000 * (video.duration || 0); };
    if (video.readyState) place(); else video.addEventListener("loadedmetadata", place, { once: true });
  });
  box.toggle = toggle;
  show();
  return box;
}

function card(index) {
  const clip = clips[index], medium = media[index], source = word(clip, 4) || "unknown source";
  const box = made("article", word(clip, 0)), name = fileName(source);
  box.id = `clip-${index}`;
  if (hasPicture(index)) box.append(player(index, name));
  else box.append(made("div", "noimage", medium ? "no picture" : "not among the pictures"));
  const title = made("h4");
  title.title = source;
  title.append(made("bdi", "", name));
  box.append(title);
  const facts = made("p", "muted");
  if (clip[START] !== null && clip[END] !== null && clip[END] > clip[START]) {
    const span = made("span", "", `${clock(clip[START])} to ${clock(clip[END])}`);
    span.title = `${clip[START]} to ${clip[END]} s`;
    facts.append(span);
  }
  for (const text of [word(clip, 2), word(clip, 3)]) {
    if (text) facts.append(facts.childNodes.length ? " · " : "", made("bdi", "", text));
  }
  box.append(facts);
  if (word(clip, 1)) box.append(made("p", "reason-of-clip", word(clip, 1)));
  if (clip[DETAIL]) box.append(made("p", "", clip[DETAIL]));
  const list = made("dl");
  measures.forEach((measure, i) => {
    const value = clip[MEASURES + i];
    if (value === null) return;
    const line = made("div");
    line.append(made("dt", "", measure.title), made("dd", "", written(value, measure)));
    list.append(line);
  });
  box.append(list);
  if (medium && medium.note) box.append(made("p", "muted", medium.note));
  box.append(made("p", "key", clip[KEY]));
  return box;
}

// Filters and order.
function options(select, column, all) {
  const counts = new Map();
  for (const clip of clips) if (clip[column] >= 0) counts.set(clip[column], (counts.get(clip[column]) || 0) + 1);
  const found = [...counts].map(([place, count]) => [words[KINDS[column]][place], place, count]);
  found.sort((a, b) => a[0] < b[0] ? -1 : 1);
  select.replaceChildren(new Option(all, "-1"), ...found.map(([text, place, count]) => new Option(`${text} (${count.toLocaleString("en")})`, place)));
  select.parentElement.hidden = found.length < (column < 2 ? 1 : 2);
}
const selects = [0, 1, 2, 3].map(column => [at(KINDS[column]), column]);
function fits(clip, find, from, to, measured) {
  const value = clip[measured];
  return selects.every(([select, column]) => select.value === "-1" || clip[column] === Number(select.value)) &&
    (isNaN(from) || (value !== null && value >= from)) && (isNaN(to) || (value !== null && value <= to)) &&
    (!find || `${word(clip, 4)} ${clip[KEY]} ${clip[DETAIL]}`.toLowerCase().includes(find));
}
const hasPicture = index => Boolean(media[index] && media[index].poster);
function sortValue(clip, column) {
  const value = column < START ? word(clip, column) : clip[column];
  return value === "" ? null : value;
}
function filter() {
  const find = at("find").value.trim().toLowerCase(), measured = MEASURES + Number(at("measure").value);
  const from = parseFloat(at("from").value), to = parseFloat(at("to").value), column = Number(at("sort").value);
  const pictured = at("pictured").checked;
  fit = clips.map((_, i) => i).filter(i => (!pictured || hasPicture(i)) && fits(clips[i], find, from, to, measured));
  if (column >= 0) {
    const values = clips.map(clip => sortValue(clip, column));
    fit.sort((i, j) => {
      const [a, b] = [values[i], values[j]];
      if (a === b) return i - j;
      if (a === null) return 1;  // what is missing stays at the end
      if (b === null) return -1;
      return (a < b ? -1 : 1) * (falling ? -1 : 1);
    });
  } else if (falling) fit.reverse();
  page = 0;
  draw();
}
function draw() {
  page = Math.max(0, Math.min(page, Math.ceil(fit.length / PAGE_CLIPS) - 1));
  const first = page * PAGE_CLIPS, shown = fit.slice(first, first + PAGE_CLIPS), number = n => n.toLocaleString("en");
  at("cards").replaceChildren(...shown.map(card));
  at("where").textContent = fit.length
    ? `${number(first + 1)} to ${number(first + shown.length)} of ${number(fit.length)} clips` : "No clip fits.";
  for (const button of document.querySelectorAll(".previous")) button.disabled = page === 0;
  for (const button of document.querySelectorAll(".next")) button.disabled = first + PAGE_CLIPS >= fit.length;
  at("where-below").textContent = at("where").textContent;
  overlays();
}
function overlays() {
  for (const box of at("cards").querySelectorAll(".player")) box.overlay();
}
function turn(by) {
  page += by;
  draw();
  at("clips").scrollIntoView();
}
function reset(changes) {
  for (const [select] of selects) select.value = "-1";
  for (const id of ["find", "from", "to"]) at(id).value = "";
  at("sort").value = "-1";
  at("pictured").checked = false;
  falling = false;
  for (const [column, text] of Object.entries(changes)) {
    const place = words[KINDS[column]].indexOf(text);
    if (place >= 0) at(KINDS[column]).value = place;
  }
  showDirection();
  filter();
}
function showDirection() {
  at("direction").textContent = falling ? "↓" : "↑";
  at("direction").setAttribute("aria-label", falling ? "Falling order" : "Rising order");
}
if (clips.length) {
  options(at("status"), 0, "all");
  options(at("reason"), 1, "all");
  options(at("language"), 2, "all");
  options(at("speaker"), 3, "all");
  const measured = measures.map((measure, i) => [measure.title, i]);
  at("measure").replaceChildren(...measured.map(([title, i]) => new Option(title, i)));
  const orders = [["as chosen", -1], ["source", 4], ["start", START], ["language", 2], ["speaker", 3], ["reason", 1]];
  at("sort").replaceChildren(...[...orders, ...measured.map(([title, i]) => [title, MEASURES + i])].map(one => new Option(...one)));
  for (const id of ["find", "status", "language", "speaker", "measure", "from", "to", "sort"]) {
    at(id).addEventListener("input", filter);
  }
  at("reason").addEventListener("input", () => { at("status").value = "-1"; filter(); });
  at("direction").addEventListener("click", () => { falling = !falling; showDirection(); filter(); });
  at("geometry").addEventListener("change", overlays);
  at("pictured").addEventListener("change", filter);
  at("pictured").parentElement.hidden = clips.every((_, i) => hasPicture(i));
  at("geometry").parentElement.hidden = !media.some(medium => medium.overlay);
  at("reset").addEventListener("click", () => reset({}));
  document.querySelector(".filters").addEventListener("submit", event => event.preventDefault());
  for (const [css, by] of [[".previous", -1], [".next", 1]]) {
    for (const button of document.querySelectorAll(css)) button.addEventListener("click", () => turn(by));
  }
  for (const link of document.querySelectorAll("[data-reason]")) {
    link.addEventListener("click", () => reset({ 1: link.dataset.reason }));
  }
  for (const face of document.querySelectorAll("[data-clip]")) {
    face.addEventListener("click", () => {
      reset({ 0: "kept" });
      page = Math.floor(fit.indexOf(Number(face.dataset.clip)) / PAGE_CLIPS);
      draw();
      const target = at(`clip-${face.dataset.clip}`);
      if (target) target.querySelector(".player").toggle();
      if (target) target.scrollIntoView({ block: "center" });
    });
  }
  reset({ 0: "kept" });
}
