// SVG by hand: panels with axes, marks of an arm, and the words that stand for a figure.

const SPACE = "http://www.w3.org/2000/svg";

/** An element, of SVG or HTML by its name, with attributes and children (nodes or text). */
function make(name, attributes = {}, ...children) {
  const drawn = ["svg", "g", "line", "path", "text", "rect", "title"].includes(name);
  const node = drawn ? document.createElementNS(SPACE, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const colour = (arm) => `var(--arm-${armOf[arm].place})`;
/** Colours repeat after six arms; dashes and markers don't. */
const dash = (arm) => ["", "5 3", "2 2"][Math.floor(Math.max(0, armOf[arm].place - 1) / 6) % 3];

const SHAPES = {
  o: (r) => `M${-r} 0A${r} ${r} 0 1 0 ${r} 0A${r} ${r} 0 1 0 ${-r} 0Z`,
  s: (r) => `M${-r} ${-r}H${r}V${r}H${-r}Z`,
  D: (r) => `M0 ${-1.3 * r}L${1.3 * r} 0L0 ${1.3 * r}L${-1.3 * r} 0Z`,
  "^": (r) => `M0 ${-1.2 * r}L${1.2 * r} ${r}H${-1.2 * r}Z`,
  v: (r) => `M0 ${1.2 * r}L${1.2 * r} ${-r}H${-1.2 * r}Z`,
  P: (r) => `M${-r / 3} ${-r}H${r / 3}V${-r / 3}H${r}V${r / 3}H${r / 3}V${r}H${-r / 3}V${r / 3}H${-r}V${-r / 3}H${-r / 3}Z`,
  X: (r) => `M${-r} ${-r / 2}L${-r / 2} ${-r}L0 ${-r / 2}L${r / 2} ${-r}L${r} ${-r / 2}L${r / 2} 0L${r} ${r / 2}L${r / 2} ${r}L0 ${r / 2}L${-r / 2} ${r}L${-r} ${r / 2}L${-r / 2} 0Z`,
};

/** An arm's marker; hollow where an interval does not exclude zero, or where an arm has no course. */
function mark(arm, x, y, { size = 3.4, hollow = false, words = "" } = {}) {
  return make(
    "path",
    {
      d: SHAPES[armOf[arm].marker](size),
      transform: `translate(${x} ${y})`,
      style: `fill:${hollow ? "var(--paper)" : colour(arm)};stroke:${colour(arm)};stroke-width:1.3`,
    },
    ...(words ? [make("title", {}, words)] : []),
  );
}

const straight = (low, high, from, to) => (value) => from + ((value - low) / (high - low)) * (to - from);
const logarithmic = (low, high, from, to) => {
  const inner = straight(Math.log(low), Math.log(high), from, to);
  return (value) => inner(Math.log(value));
};

/** Round ticks inside an interval, about `wanted` of them. */
function ticks(low, high, wanted = 5) {
  const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((one) => one >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9 * step; at++) found.push(at * step);
  return found;
}

function logTicks(low, high) {
  const grid = (steps) => {
    const found = [];
    for (let e = -6; e < 4; e++) for (const m of steps) found.push(m * 10 ** e);
    return found.filter((one) => one >= low * 0.999 && one <= high * 1.001);
  };
  const coarse = grid([1, 2, 5]);
  if (coarse.length > 5) return grid([1]).length > 1 ? grid([1]) : coarse.filter((_, i) => i % 2 === 0);
  return coarse.length > 1 ? coarse : grid([1, 2, 3, 4, 5, 6, 7, 8, 9]).filter((_, i) => i % 2 === 0);
}

/**
 * A panel: title, axes, and what `draw` adds inside.
 *   x: {low, high, log, ticks: [[at, label]]}; y: {low, high, log, format}; label: words for who can't see it.
 */
function panel({ title, label, x, y, width = 300, height = 210, left = 38, right = 12, zero = false }, draw) {
  const top = 10, bottom = 24;
  const sx = (x.log ? logarithmic : straight)(x.low, x.high, left, width - right);
  const sy = (y.log ? logarithmic : straight)(y.low, y.high, height - bottom, top);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}. ${label}` });
  for (const at of y.ticks ?? (y.log ? logTicks(y.low, y.high) : ticks(y.low, y.high))) {
    svg.append(
      make("line", { class: "grid", x1: left, x2: width - right, y1: sy(at), y2: sy(at) }),
      make("text", { class: "tick", x: left - 5, y: sy(at) + 3.5, "text-anchor": "end" }, y.format(at)),
    );
  }
  x.ticks.forEach(([at, word], number) => {
    const anchor = number === x.ticks.length - 1 && x.ticks.length > 1 ? "end" : "middle";
    const place = anchor === "end" ? Math.min(sx(at) + 12, width - 2) : sx(at);
    svg.append(make("text", { class: "tick", x: place, y: height - 8, "text-anchor": anchor }, word));
  });
  svg.append(make("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  if (zero) svg.append(make("line", { class: "zero", x1: left, x2: width - right, y1: sy(0), y2: sy(0) }));
  draw(svg, sx, sy);
  return make("div", { class: "panel" }, make("h3", { title }, title), svg);
}

function polyline(points, arm, more = {}) {
  const d = points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");
  return make("path", { class: "line", d, style: `stroke:${colour(arm)}`, "stroke-dasharray": dash(arm), ...more });
}

const bar = (x1, y1, x2, y2, arm, more = {}) =>
  make("line", { class: "whisker", x1, y1, x2, y2, style: `stroke:${colour(arm)}`, ...more });

/** Arms in a row, each behind its marker. */
function legend(arms, note = "") {
  const items = arms.map((name) => {
    const svg = make("svg", { viewBox: "-6 -6 12 12", class: "swatch", "aria-hidden": "true" });
    svg.append(mark(name, 0, 0, { size: 4 }));
    return make("span", { class: "key", style: `color:${colour(name)}` }, svg, name);
  });
  return make("p", { class: "legend" }, ...items, ...(note ? [make("span", { class: "note" }, note)] : []));
}

/** A table of what a figure shows, folded away. Rows are lists of cells; the first is the row's header. */
function numbers(caption, header, rows) {
  const head = make("tr", {}, ...header.map((cell, i) => make("th", { scope: "col", class: i ? null : "text" }, cell)));
  const body = rows.map(([first, ...cells]) =>
    make("tr", {}, make("th", { scope: "row" }, first), ...cells.map((cell) => make("td", {}, cell))),
  );
  const table = make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body));
  return make(
    "details",
    { class: "numbers" },
    make("summary", {}, `Table: ${caption}`),
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table),
  );
}

/** Put a figure into its place; a table that was unfolded stays so. */
function fill(id, ...nodes) {
  const place = document.getElementById(id);
  if (!place) return;
  const open = place.querySelector("details.numbers")?.open ?? false;
  place.replaceChildren(...nodes);
  const table = place.querySelector("details.numbers");
  if (table) table.open = open;
}
