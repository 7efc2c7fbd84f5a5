"use strict";
(async () => {
const F = JSON.parse(document.getElementById("facts").textContent);
const page = document.getElementById("page"), root = document.documentElement;

// ---- arrays ---------------------------------------------------------------------------------------------------------

async function bytes(ref) {
  const text = atob(document.getElementById("b" + ref.blob).textContent), packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
async function rising(ref, factor) { // whole numbers that do not fall, as floats times a factor
  const raw = await bytes(ref), out = new Float64Array(ref.n);
  let value = ref.first, place = 0;
  for (let i = 0; i < ref.n; i++) {
    let step = 0, scale = 1, byte;
    do { byte = raw[place++]; step += (byte & 127) * scale; scale *= 128; } while (byte & 128);
    value += step;
    out[i] = value * factor;
  }
  return out;
}
async function floats(ref) {
  const raw = await bytes(ref), n = ref.n, out = new Uint8Array(4 * n);
  for (let k = 0; k < 4; k++) for (let i = 0; i < n; i++) out[4 * i + k] = raw[k * n + i];
  return new Float32Array(out.buffer);
}
async function whole(ref) {
  const raw = await bytes(ref);
  return ref.kind === "u2" ? new Uint16Array(raw.buffer) : raw;
}

// ---- small things ---------------------------------------------------------------------------------------------------

function make(kind, parent, text, attributes) {
  const one = document.createElement(kind);
  if (text !== undefined) one.textContent = text;
  for (const key in attributes || {}) one.setAttribute(key, attributes[key]);
  if (parent) parent.appendChild(one);
  return one;
}
function below(array, value) { // first place that is not below value
  let low = 0, high = array.length;
  while (low < high) { const m = (low + high) >> 1; if (array[m] < value) low = m + 1; else high = m; }
  return low;
}
const clip = (v, low, high) => Math.max(low, Math.min(high, v));
function nice(span, most) { // a step of 1, 2 or 5 times a power of ten
  const raw = span / Math.max(1, most), power = 10 ** Math.floor(Math.log10(raw)), rest = raw / power;
  return (rest <= 1 ? 1 : rest <= 2 ? 2 : rest <= 5 ? 5 : 10) * power;
}
const told = (v, step) => v.toFixed(clip(-Math.floor(Math.log10(step) + 1e-9), 0, 6));
const seconds = t => t.toFixed(clip(Math.ceil(2 - Math.log10(T[1] - T[0])), 1, 6)) + " s";
function fit(c, text, width) {
  text = String(text);
  if (c.measureText(text).width <= width) return text;
  let n = text.length;
  while (n > 1 && c.measureText(text.slice(0, n) + "…").width > width) n--;
  return n > 1 ? text.slice(0, n) + "…" : "";
}
let C = {};
function colours() {
  const css = getComputedStyle(root);
  for (const name of ["bg", "ink", "faint", "grid", "panel", "gap", "box"]) C[name] = css.getPropertyValue("--" + name).trim();
  C.c = [0, 1, 2, 3, 4, 5].map(k => css.getPropertyValue("--c" + k).trim());
}
const hue = k => C.c[k % C.c.length];
function wordHue(word, words) { // observed time is grey, divisions have colours of their own, other words one in turn
  const known = { observed: C.faint, train: hue(0), valid: hue(4), test: hue(1), calibration: hue(2) };
  if (known[word]) return known[word];
  return hue(Math.max(0, words.indexOf(word)));
}

// ---- time -----------------------------------------------------------------------------------------------------------

const first = F.start, last = F.stop, LEAST = 0.001;
let T = F.view.slice(), W = 800, G = 110, R = 10, over = null, due = false;
const x = t => G + (t - T[0]) / (T[1] - T[0]) * (W - G - R);
const at = px => T[0] + (px - G) / (W - G - R) * (T[1] - T[0]);
function show(a, b) {
  let span = clip(b - a, Math.min(LEAST, last - first), last - first);
  a = clip(a + (b - a - span) / 2, first, last - span);
  T = [a, a + span];
  ask();
}
function zoom(factor, middle) {
  const m = middle === undefined ? (T[0] + T[1]) / 2 : clip(middle, T[0], T[1]);
  show(m - (m - T[0]) * factor, m + (T[1] - m) * factor);
}
const pan = share => show(T[0] + share * (T[1] - T[0]), T[1] + share * (T[1] - T[0]));
let kept = 0;
function ask() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; draw(); });
  clearTimeout(kept);
  kept = setTimeout(() => { try { history.replaceState(null, "", "#t=" + T.map(t => +t.toFixed(4)).join(",")); } catch (e) { /* a page without an address */ } }, 400);
}
function fromHash() {
  const found = /[#&]t=(-?[\d.]+),(-?[\d.]+)/.exec(location.hash);
  if (found && +found[2] > +found[1]) show(+found[1], +found[2]);
  const theme = /[#&]theme=(dark|light)/.exec(location.hash);
  if (theme) setTheme(theme[1]);
}
function setTheme(name) { root.dataset.theme = name; colours(); ask(); }

// ---- panels ---------------------------------------------------------------------------------------------------------

const panels = [];
function panel(title, height, paint, about) {
  const head = title === null ? null : make("h2", page, title);
  const keys = head ? (words, colour, box) => make("span", head, words, colour ? { class: "key" + (box ? " box" : ""), style: "--k:var(--" + colour + ")" } : {}) : null;
  const canvas = make("canvas", page, undefined, { role: "img", "aria-label": (title || about) + ": drawn over time" });
  const one = { canvas, height, paint, keys, read: null };
  panels.push(one);
  pointer(canvas);
  return one;
}
function prepare(one) {
  const h = typeof one.height === "function" ? one.height() : one.height, dpr = window.devicePixelRatio || 1;
  const width = Math.round(W * dpr), height = Math.round(h * dpr);
  if (one.canvas.width !== width || one.canvas.height !== height) { one.canvas.width = width; one.canvas.height = height; one.canvas.style.height = h + "px"; }
  const c = one.canvas.getContext("2d");
  c.setTransform(dpr, 0, 0, dpr, 0, 0);
  c.clearRect(0, 0, W, h);
  c.font = "11px system-ui,sans-serif";
  c.textBaseline = "middle";
  return [c, h];
}
function inPlot(c, h, paint) { c.save(); c.beginPath(); c.rect(G, 0, W - G - R, h); c.clip(); paint(); c.restore(); }
function gaps(c, h) {
  c.fillStyle = C.gap;
  for (const [a, b] of F.unobserved) if (b > T[0] && a < T[1]) c.fillRect(x(a), 0, Math.max(0.5, x(b) - x(a)), h);
}
function grid(c, h) {
  const step = nice(T[1] - T[0], (W - G) / 90);
  c.fillStyle = C.grid;
  for (let t = Math.ceil(T[0] / step) * step; t <= T[1]; t += step) c.fillRect(x(t), 0, 1, h);
}
function cursor(c, h) { if (over !== null) { c.fillStyle = C.faint; c.fillRect(x(over), 0, 1, h); } }
function label(c, text, y) { c.fillStyle = C.faint; c.textAlign = "right"; c.fillText(fit(c, text, G - 8), G - 6, y); c.textAlign = "left"; }
function draw() {
  W = page.clientWidth - parseFloat(getComputedStyle(page).paddingLeft) * 2;
  G = W < 600 ? 62 : 118;
  for (const one of panels) { const [c, h] = prepare(one); one.paint(c, h, one); }
  read();
}

// ---- pointer, keys --------------------------------------------------------------------------------------------------

const held = new Map();
function pointer(canvas) {
  let from = null;
  canvas.addEventListener("wheel", e => {
    e.preventDefault();
    const px = e.offsetX;
    if (e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY)) pan((e.deltaX || e.deltaY) / (W - G));
    else zoom(Math.exp(clip(e.deltaY, -200, 200) * 0.003), canvas === strip.canvas ? undefined : at(px));
  }, { passive: false });
  canvas.addEventListener("pointerdown", e => {
    canvas.setPointerCapture(e.pointerId);
    held.set(e.pointerId, e.offsetX);
    from = { t: T.slice(), at: [...held.values()] };
    if (canvas === strip.canvas) jump(e.offsetX);
  });
  canvas.addEventListener("pointermove", e => {
    if (canvas !== strip.canvas) { over = clip(at(e.offsetX), T[0], T[1]); where = [canvas, e.offsetY]; ask(); }
    if (!held.has(e.pointerId) || !from) return;
    held.set(e.pointerId, e.offsetX);
    const now = [...held.values()], per = (from.t[1] - from.t[0]) / (W - G - R);
    if (canvas === strip.canvas) jump(e.offsetX);
    else if (now.length === 1) { const by = (from.at[0] - now[0]) * per; show(from.t[0] + by, from.t[1] + by); }
    else if (from.at.length > 1) { // two fingers: what lies under each stays under it
      const t = from.at.slice(0, 2).map(px => from.t[0] + (px - G) * per), wide = now[1] - now[0];
      if (Math.abs(wide) > 12) {
        const each = (t[1] - t[0]) / wide;
        if (each > 0) { const a = t[0] - (now[0] - G) * each; show(a, a + each * (W - G - R)); }
      }
    }
  });
  const leave = e => { held.delete(e.pointerId); from = held.size ? { t: T.slice(), at: [...held.values()] } : null; };
  canvas.addEventListener("pointerup", leave);
  canvas.addEventListener("pointercancel", leave);
  canvas.addEventListener("pointerleave", () => { if (!held.size) { over = null; ask(); } });
  canvas.addEventListener("dblclick", e => canvas === strip.canvas ? show(first, last) : zoom(0.4, at(e.offsetX)));
}
let where = null;
function jump(px) { const t = first + (px - G) / (W - G - R) * (last - first), half = (T[1] - T[0]) / 2; show(t - half, t + half); }
const KEYS = [
  ["← →", "move by a quarter (Shift: a whole view)"], ["+ −", "zoom in, out"], ["0", "the whole session"],
  ["r", "back to the first view"], ["n p", "next, previous row of the first table"], ["Home End", "start, end"],
  ["d", "dark or light"], ["?", "this help"],
];
function trial(by) {
  const table = F.tables.find(t => t.name === "trials") || F.tables[0];
  if (!table) return;
  const middle = (T[0] + T[1]) / 2, span = T[1] - T[0];
  const starts = table.start, k = by > 0 ? starts.findIndex(s => s > middle + 1e-4) : starts.length - 1 - [...starts].reverse().findIndex(s => s < middle - 1e-4);
  if (k >= 0 && k < starts.length) show(starts[k] - span / 2, starts[k] + span / 2);
}
addEventListener("keydown", e => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.tagName === "SELECT") return;
  const act = {
    ArrowLeft: () => pan(e.shiftKey ? -1 : -0.25), ArrowRight: () => pan(e.shiftKey ? 1 : 0.25),
    "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), "0": () => show(first, last),
    r: () => show(...F.view), n: () => trial(1), p: () => trial(-1), d: dark, "?": () => help.open ? help.close() : help.showModal(),
    Home: () => show(first, first + T[1] - T[0]), End: () => show(last - T[1] + T[0], last),
  }[e.key];
  if (act) { e.preventDefault(); act(); }
});
const dark = () => setTheme(root.dataset.theme === "dark" ? "light" : "dark");

// ---- head -----------------------------------------------------------------------------------------------------------

make("h1", page, F.title);
const about = make("p", page);
Object.entries(F.about).forEach(([key, value], k) => { about.append((k ? " · " : "") + key + " "); make("b", about, value); });
make("p", page, F.detail);
const bar = make("nav", page);
const button = (text, title, act) => make("button", bar, text, { title, "aria-label": title }).addEventListener("click", act);
button("◀", "earlier (left arrow)", () => pan(-0.25));
button("▶", "later (right arrow)", () => pan(0.25));
button("+", "zoom in (+)", () => zoom(0.6));
button("−", "zoom out (-)", () => zoom(1 / 0.6));
button("all", "the whole session (0)", () => show(first, last));
button("first view", "back to the first view (r)", () => show(...F.view));
button("◐", "dark or light (d)", dark);
button("?", "keys (?)", () => help.showModal());
const order = make("select", bar, undefined, { "aria-label": "order of units", title: "order of units" });
const orders = ["as stored", "rate", ...Object.keys(F.units.columns)];
orders.forEach(name => make("option", order, name === "as stored" ? "units " + name : "units by " + name, { value: name }));
order.addEventListener("change", () => { sortUnits(order.value); ask(); });
const help = make("dialog", document.body);
make("h2", help, "Keys and pointer");
const keys = make("table", help);
for (const [key, words] of [...KEYS, ["wheel", "zoom where the pointer is (Shift: move)"], ["drag", "move; two fingers: zoom"], ["double click", "zoom in; on the strip above: all"]]) {
  const row = make("tr", keys);
  make("kbd", make("td", row), key);
  make("td", row, words);
}
make("button", help, "close").addEventListener("click", () => help.close());
help.addEventListener("click", e => { if (e.target === help) help.close(); });

// ---- data -----------------------------------------------------------------------------------------------------------

const N = F.units.id.length;
const spikeTime = await rising(F.spikes.tick, F.spikes.period_ns[0] / F.spikes.period_ns[1] / 1e9);
const spikeUnit = await whole(F.spikes.unit);
const counts = await whole(F.overview.count);
for (const s of F.signals) {
  s.t = await rising(s.time, 1e-9);
  s.v = await floats(s.value);
  if (s.envelope) { s.et = await rising(s.envelope.time, 1e-9); s.low = await floats(s.envelope.low); s.high = await floats(s.envelope.high); }
}
for (const layer of F.tokens) {
  if (layer.shape) layer.value = await whole(layer.cells);
  else { layer.t = await rising(layer.time, 1e-6); layer.r = await whole(layer.row); layer.k = await whole(layer.mark); }
}
for (const p of F.predictions) if (p.time) { p.t = await rising(p.time, 1e-9); p.s = await floats(p.said); p.v = await floats(p.truth); }
let rowOf = new Int32Array(N);
function sortUnits(name) {
  const rows = [...Array(N).keys()];
  if (name === "rate") {
    const total = new Float64Array(N);
    for (let u = 0; u < N; u++) for (let b = 0; b < F.overview.bins; b++) total[u] += counts[u * F.overview.bins + b];
    rows.sort((a, b) => total[a] - total[b]);
  } else if (name !== "as stored") {
    const column = F.units.columns[name], number = column.every(v => v === "" || isFinite(v));
    rows.sort((a, b) => number ? column[a] - column[b] : column[a] < column[b] ? -1 : column[a] > column[b] ? 1 : a - b);
  }
  rows.forEach((unit, row) => { rowOf[unit] = row; });
  unitAt = rows;
}
let unitAt = [];
sortUnits("as stored");

// ---- strip: the whole session ---------------------------------------------------------------------------------------

const strip = panel(null, 46, (c, h) => {
  const o = F.overview, most = Math.max(1, ...o.total), wide = W - G - R, per = wide / (last - first);
  label(c, "whole session", h / 2);
  c.fillStyle = C.panel; c.fillRect(G, 0, wide, h);
  c.fillStyle = C.gap;
  for (const [a, b] of F.unobserved) c.fillRect(G + (a - first) * per, 0, Math.max(0.5, (b - a) * per), h);
  c.fillStyle = C.faint;
  for (let b = 0; b < o.bins; b++) {
    const left = G + b * o.step * per;
    if (left > W - R) break;
    const high = o.total[b] / most * (h - 4);
    c.fillRect(left, h - high, Math.max(0.6, Math.min(o.step * per, W - R - left)), high);
  }
  if (F.stretch[0] > first || F.stretch[1] < last) { c.fillStyle = hue(2); c.fillRect(G + (F.stretch[0] - first) * per, h - 3, (F.stretch[1] - F.stretch[0]) * per, 3); }
  const left = G + (T[0] - first) * per, width = Math.max(3, (T[1] - T[0]) * per);
  c.fillStyle = C.box; c.fillRect(left, 0, width, h);
  c.strokeStyle = hue(0); c.strokeRect(left + 0.5, 0.5, width - 1, h - 1);
}, "spikes of the whole session");

// ---- bands and tables -----------------------------------------------------------------------------------------------

const ROW = 17;
const labelOf = {};
if (F.tables.length) {
  for (const t of F.tables) labelOf[t.name] = Object.keys(t.columns).find(k => new Set(t.columns[k]).size > 1 && new Set(t.columns[k]).size <= 12) || "";
}
const rowsOf = F.bands.length + F.tables.length;
const bands = panel("observed time, splits, trials", rowsOf * ROW, (c, h) => {
  F.bands.forEach((band, k) => {
    label(c, band.name, (k + 0.5) * ROW);
    const words = [...new Set(band.rows.map(r => r[2]))];
    inPlot(c, h, () => {
      for (const [a, b, word] of band.rows) {
        if (b < T[0] || a > T[1]) continue;
        const left = Math.max(G, x(a)), width = Math.max(1, Math.min(W - R, x(b)) - left);
        c.globalAlpha = 0.45; c.fillStyle = wordHue(word, words); c.fillRect(left, k * ROW + 2, width, ROW - 4); c.globalAlpha = 1;
        if (width > 24 && words.length > 1) { c.fillStyle = C.ink; c.fillText(fit(c, word, width - 6), left + 3, (k + 0.5) * ROW); }
      }
    });
  });
  F.tables.forEach((table, j) => {
    const k = F.bands.length + j, column = table.columns[labelOf[table.name]], words = column ? [...new Set(column)] : [];
    label(c, table.name, (k + 0.5) * ROW);
    inPlot(c, h, () => {
      let end = -1;
      const to = below(table.start, T[1]);
      for (let i = 0; i < to; i++) {
        if (table.stop[i] < T[0]) continue;
        const left = x(table.start[i]), width = Math.max(1.5, x(table.stop[i]) - left);
        c.globalAlpha = 0.35; c.fillStyle = column ? hue(Math.max(0, words.indexOf(column[i]))) : C.faint; c.fillRect(left, k * ROW + 2, width, ROW - 4);
        c.globalAlpha = 1; c.fillRect(left, k * ROW + 1, 1.5, ROW - 2);
        const from = Math.max(G, left) + 4;
        if (from > end && Math.max(width, 40) > 26) {
          const next = i + 1 < table.start.length ? x(table.start[i + 1]) : W, word = fit(c, column ? column[i] : i, next - from - 4);
          if (word.length) { c.fillStyle = C.ink; c.fillText(word, from, (k + 0.5) * ROW); end = from + c.measureText(word).width; }
        }
      }
    });
  });
  cursor(c, h);
});
for (const t of F.tables) {
  const names = Object.keys(t.columns);
  if (!names.length) continue;
  const pick = make("select", null, undefined, { "aria-label": "label of " + t.name, title: "label of " + t.name });
  make("option", pick, t.name + ": row number", { value: "" });
  names.forEach(name => make("option", pick, t.name + ": " + name, { value: name }));
  pick.value = labelOf[t.name];
  pick.addEventListener("change", () => { labelOf[t.name] = pick.value; ask(); });
  bar.append(pick);
}

if (F.codes.length) {
  panel("event codes, at their moments", F.codes.length * ROW, (c, h) => {
    F.codes.forEach((code, k) => {
      label(c, code.name, (k + 0.5) * ROW);
      inPlot(c, h, () => {
        let end = -1;
        for (let i = below(code.time, T[0]); i < code.time.length && code.time[i] <= T[1]; i++) {
          const left = x(code.time[i]);
          c.fillStyle = hue(k); c.fillRect(left, k * ROW + 1, 1.5, ROW - 2);
          if (left >= end) { c.fillStyle = C.ink; const next = i + 1 < code.time.length ? x(code.time[i + 1]) : W, word = fit(c, code.label[i], Math.min(90, next - left - 5)); c.fillText(word, left + 4, (k + 0.5) * ROW); end = left + 8 + c.measureText(word).width; }
        }
      });
    });
    cursor(c, h);
  });
}

// ---- raster ---------------------------------------------------------------------------------------------------------

const small = document.createElement("canvas");
function image(c, wide, high, value, most, colour, place) { // value: Float32 [high][wide], row 0 at the bottom
  small.width = wide; small.height = high;
  const d = small.getContext("2d"), data = d.createImageData(wide, high), rgb = rgbOf(colour);
  for (let r = 0; r < high; r++) for (let k = 0; k < wide; k++) {
    const v = value[r * wide + k];
    if (!v) continue;
    const p = ((high - 1 - r) * wide + k) * 4;
    data.data[p] = rgb[0]; data.data[p + 1] = rgb[1]; data.data[p + 2] = rgb[2];
    data.data[p + 3] = 255 * Math.min(1, 0.12 + 0.88 * Math.sqrt(v / most));
  }
  d.putImageData(data, 0, 0);
  c.imageSmoothingEnabled = false;
  c.drawImage(small, ...place);
}
function usual(value, most) { // of the counts that are there, one in fifty is above: a unit of noise hides no other
  const there = [];
  for (let i = 0, step = 1 + (value.length >> 16); i < value.length; i += step) if (value[i]) there.push(value[i]);
  return there.length ? Math.max(1, there.sort((a, b) => a - b)[Math.floor(0.98 * (there.length - 1))]) : most;
}
const rgbs = {};
function rgbOf(colour) {
  if (!rgbs[colour]) { const n = parseInt(colour.slice(1), 16); rgbs[colour] = [n >> 16, (n >> 8) & 255, n & 255]; }
  return rgbs[colour];
}
const raster = panel("units", () => clip(N * (innerWidth < 600 ? 4 : 6), 110, Math.max(220, innerHeight * 0.46)), (c, h) => {
  gaps(c, h); grid(c, h);
  const each = h / Math.max(1, N), step = Math.max(1, nice(N, h / 26));
  for (let r = 0; r < N; r += step) label(c, orders.includes(order.value) && order.value !== "as stored" && order.value !== "rate" ? F.units.columns[order.value][unitAt[r]] : F.units.id[unitAt[r]], clip(h - (r + 0.5) * each, 6, h - 6));
  inPlot(c, h, () => {
    const inside = T[0] >= F.stretch[0] - 1e-9 && T[1] <= F.stretch[1] + 1e-9;
    const low = below(spikeTime, T[0]), high = below(spikeTime, T[1]);
    raster.mode = "";
    if (inside && high - low <= 40000) {
      c.fillStyle = C.ink;
      const tall = Math.max(1, each * 0.82), width = high - low < 4000 ? 1.3 : 1;
      for (let i = low; i < high; i++) c.fillRect(x(spikeTime[i]), h - (rowOf[spikeUnit[i]] + 1) * each + each * 0.09, width, tall);
      return;
    }
    const wide = Math.ceil(W - G - R), value = new Float32Array(wide * N);
    let most = 1;
    if (inside && high - low <= 4e6) {
      const per = wide / (T[1] - T[0]);
      for (let i = low; i < high; i++) { const p = rowOf[spikeUnit[i]] * wide + Math.min(wide - 1, ((spikeTime[i] - T[0]) * per) | 0); if (++value[p] > most) most = value[p]; }
      raster.mode = "counts a pixel";
    } else {
      const o = F.overview;
      for (let k = 0; k < wide; k++) {
        const b = Math.floor((T[0] + (k + 0.5) / wide * (T[1] - T[0]) - first) / o.step);
        if (b < 0 || b >= o.bins) continue;
        for (let u = 0; u < N; u++) { const v = counts[u * o.bins + b]; value[rowOf[u] * wide + k] = v; if (v > most) most = v; }
      }
      raster.mode = "counts in bins of " + +o.step.toPrecision(3) + " s";
    }
    image(c, wide, N, value, usual(value, most), C.ink, [G, 0, W - G - R, h]);
  });
  cursor(c, h);
});
raster.keys("each tick is a spike; where they are many, darker is more");
if (F.unobserved.length) raster.keys("not observed", "gap", true);

// ---- lines ----------------------------------------------------------------------------------------------------------

function scale(c, h, low, high) { // numbers at the left, and where a value lies
  if (!(high > low)) { low -= 0.5; high += 0.5; }
  const pad = (high - low) * 0.06, y = v => h - 3 - (v - low + pad) / (high - low + 2 * pad) * (h - 6), step = nice(high - low, h / 14);
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9; v += step) { label(c, told(v, step), clip(y(v), 7, h - 7)); c.fillStyle = C.grid; c.fillRect(G, y(v), W - G - R, 1); }
  return y;
}
function line(c, time, value, many, k, y, gap, colour, dash) {
  const low = Math.max(0, below(time, T[0]) - 1), high = Math.min(time.length, below(time, T[1]) + 1), wide = W - G;
  c.strokeStyle = colour; c.lineWidth = 1.4; c.setLineDash(dash || []); c.beginPath();
  if (high - low > 3 * wide) { // more than a screen: lowest and highest of each pixel
    let px = -1, a = Infinity, b = -Infinity;
    const put = () => { if (a <= b) { c.moveTo(px + 0.5, y(a)); c.lineTo(px + 0.5, y(b) + 0.6); } };
    for (let i = low; i < high; i++) {
      const v = value[i * many + k], now = Math.floor(x(time[i]));
      if (now !== px) { put(); px = now; a = Infinity; b = -Infinity; }
      if (v < a) a = v;
      if (v > b) b = v;
    }
    put();
  } else {
    let on = false, before = 0;
    for (let i = low; i < high; i++) {
      const v = value[i * many + k];
      if (isNaN(v)) { on = false; continue; }
      if (on && time[i] - before <= gap) c.lineTo(x(time[i]), y(v)); else { c.moveTo(x(time[i]), y(v)); c.lineTo(x(time[i]) + 0.01, y(v)); }
      on = true; before = time[i];
    }
  }
  c.stroke(); c.setLineDash([]);
}
function near(time, t) { const i = below(time, t); return i > 0 && (i >= time.length || t - time[i - 1] < time[i] - t) ? i - 1 : i; }
for (const s of F.signals) {
  const many = s.components.length;
  const one = panel(s.name + (s.measure ? " (" + s.measure + ")" : ""), 84, (c, h) => {
    gaps(c, h); grid(c, h);
    const y = scale(c, h, s.range[0], s.range[1]);
    inPlot(c, h, () => {
      for (let k = 0; k < many; k++) {
        if (s.whole || (T[0] >= F.stretch[0] && T[1] <= F.stretch[1])) { line(c, s.t, s.v, many, k, y, s.gap, hue(k)); continue; }
        const low = Math.max(0, below(s.et, T[0]) - 1), high = Math.min(s.et.length, below(s.et, T[1]) + 1);
        c.fillStyle = hue(k);
        for (let i = low; i < high; i++) {
          const to = i + 1 < s.et.length ? s.et[i + 1] : s.et[i] + s.gap, a = s.low[i * many + k], b = s.high[i * many + k];
          if (!isNaN(a)) c.fillRect(x(s.et[i]), y(b), Math.max(1, x(to) - x(s.et[i])), Math.max(1.2, y(a) - y(b)));
        }
      }
    });
    cursor(c, h);
  });
  s.components.forEach((name, k) => one.keys(name, "c" + k % 6));
  if (!s.whole) one.keys("every sample where every spike is; elsewhere lowest to highest");
  one.read = t => { const i = near(s.t, t); return i < s.t.length && Math.abs(s.t[i] - t) <= s.gap ? s.name + " " + s.components.map((name, k) => name + " " + (+s.v[i * many + k].toPrecision(4))).join(", ") : ""; };
}

// ---- predictions ----------------------------------------------------------------------------------------------------

for (const p of F.predictions) {
  if (!p.t) {
    const one = panel(p.name + ": labels", 2 * ROW, (c, h) => {
      gaps(c, h);
      label(c, "said", 0.5 * ROW); label(c, "true", 1.5 * ROW);
      inPlot(c, h, () => [p.said, p.true].forEach((words, k) => {
        let end = -1;
        for (let i = below(p.at, T[0]); i < p.at.length && p.at[i] <= T[1]; i++) {
          const left = x(p.at[i]), right = p.said[i] === p.true[i];
          c.fillStyle = k ? C.ink : right ? hue(2) : hue(1); c.fillRect(left, k * ROW + 1, 2, ROW - 2);
          if (left >= end) { const word = fit(c, words[i], 100); c.fillText(word, left + 5, (k + 0.5) * ROW); end = left + 9 + c.measureText(word).width; }
        }
      }));
      cursor(c, h);
    });
    one.keys(p.score); one.keys("said, right", "c2"); one.keys("said, wrong", "c1");
    continue;
  }
  const many = p.components.length;
  p.components.forEach((name, k) => {
    let low = Infinity, high = -Infinity;
    for (let i = k; i < p.v.length; i += many) for (const v of [p.v[i], p.s[i]]) { if (v < low) low = v; if (v > high) high = v; }
    const one = panel(p.name + ", " + name + (p.measure ? " (" + p.measure + ")" : ""), 92, (c, h) => {
      gaps(c, h); grid(c, h);
      const y = scale(c, h, low, high);
      inPlot(c, h, () => { line(c, p.t, p.v, many, k, y, p.gap, C.faint); line(c, p.t, p.s, many, k, y, p.gap, hue(1)); });
      cursor(c, h);
    });
    one.keys("true", "faint"); one.keys("predicted", "c1");
    if (k === 0) one.keys(p.score);
    one.read = t => { const i = near(p.t, t); return i < p.t.length && Math.abs(p.t[i] - t) <= p.gap ? name + " true " + +p.v[i * many + k].toPrecision(4) + ", predicted " + +p.s[i * many + k].toPrecision(4) : ""; };
  });
}

// ---- tokens ---------------------------------------------------------------------------------------------------------

for (const layer of F.tokens) {
  const rows = layer.shape ? layer.shape[2] : layer.rows;
  const one = panel("tokens, " + layer.scheme, () => clip(rows * 5, 40, 240), (c, h) => {
    label(c, rows > 1 ? rows + " rows" : "", h / 2);
    const each = h / rows;
    inPlot(c, h, () => {
      let seen = false;
      layer.start.forEach((a, k) => {
        const b = layer.stop[k];
        if (b < T[0] || a > T[1]) return;
        seen = true;
        const left = x(a), width = x(b) - left;
        if (layer.shape) {
          const [, bins, n] = layer.shape, value = new Float32Array(bins * n), own = layer.value.subarray(k * bins * n, (k + 1) * bins * n);
          for (let t = 0; t < bins; t++) for (let r = 0; r < n; r++) value[r * bins + t] = own[t * n + r];
          image(c, bins, n, value, 255, C.ink, [left, 0, width, h]);
          const [wide, high] = layer.token;
          c.fillStyle = hue(0);
          c.globalAlpha = 0.5;
          if (wide && width / bins * wide > 4) for (let t = 0; t <= bins; t += wide) c.fillRect(left + t / bins * width, 0, 0.7, h);
          if (high && each * high > 4) for (let r = 0; r <= n; r += high) c.fillRect(left, h - r * each, width, 0.7);
          c.globalAlpha = 1;
        }
        c.strokeStyle = hue(1); c.lineWidth = 1; c.globalAlpha = width > 14 ? 1 : 0.25; c.strokeRect(left + 0.5, 0.5, width - 1, h - 1); c.globalAlpha = 1;
      });
      if (!layer.shape) for (let i = below(layer.t, T[0]); i < layer.t.length && layer.t[i] <= T[1]; i++) {
        c.fillStyle = layer.k[i] ? hue(layer.k[i]) : C.ink;
        c.fillRect(x(layer.t[i]) - (layer.k[i] ? 1 : 0), h - (layer.r[i] + 0.9) * each, layer.k[i] ? 3 : 1.4, Math.max(1.2, each * 0.8));
      }
      if (!seen) { c.fillStyle = C.faint; c.fillText("tokens are shown from " + layer.start[0].toFixed(1) + " to " + layer.stop[layer.stop.length - 1].toFixed(1) + " s", G + 10, h / 2); }
    });
    cursor(c, h);
  });
  one.keys(layer.words); one.keys("a window", "c1");
  if (layer.shape) one.keys("darkest: " + +layer.most.toPrecision(3) + " " + layer.measure);
  else layer.kinds.forEach((kind, k) => k && [...layer.k].includes(k) && one.keys(kind, "c" + k % 6));
}

// ---- foot -----------------------------------------------------------------------------------------------------------

const foot = make("div", page, undefined, { id: "foot" });
const axis = panel(null, 30, (c, h) => {
  const step = nice(T[1] - T[0], (W - G) / 90);
  c.fillStyle = C.ink; c.fillRect(G, 0, W - G - R, 1); c.textAlign = "center";
  for (let t = Math.ceil(T[0] / step) * step; t <= T[1] + 1e-9; t += step) { c.fillRect(x(t), 0, 1, 5); const word = told(t, step), half = c.measureText(word).width / 2; c.fillText(word, clip(x(t), G + half, W - R - half), 12); }
  c.textAlign = "left"; c.fillStyle = C.faint; label(c, "time (s)", 12);
}, "time in the session");
foot.append(axis.canvas);
const line2 = make("div", foot, "", { id: "read", "aria-live": "off" });
function read() {
  if (over === null) { line2.textContent = seconds(T[0]) + " to " + seconds(T[1]) + (raster.mode ? " · drawn: " + raster.mode : "") + " · ? for keys"; return; }
  const parts = [seconds(over)];
  if (where && where[0] === raster.canvas) {
    const row = clip(Math.floor((1 - where[1] / raster.canvas.clientHeight) * N), 0, N - 1), unit = unitAt[row];
    const more = Object.keys(F.units.columns).slice(0, 4).map(k => k + " " + F.units.columns[k][unit]).join(", ");
    parts.push("unit " + F.units.id[unit] + (more ? " (" + more + ")" : ""));
  }
  for (const t of F.tables) {
    const i = below(t.start, over + 1e-9) - 1;
    if (i >= 0 && over < t.stop[i]) parts.push(t.name + " " + i + (where && where[0] === bands.canvas ? " (" + Object.keys(t.columns).map(k => k + " " + t.columns[k][i]).join(", ") + ")" : ""));
  }
  for (const one of panels) if (one.read && (!where || where[0] === one.canvas || F.signals.length < 3)) { const found = one.read(over); if (found) parts.push(found); }
  line2.textContent = parts.join(" · ");
}

setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
addEventListener("resize", ask);
addEventListener("hashchange", fromHash);
fromHash();
draw();
root.dataset.ready = "yes";
})().catch(error => {
  const text = document.createElement("p");
  text.textContent = "This page could not be drawn: " + error + ". It needs a browser of 2023 or newer.";
  document.body.prepend(text);
});
