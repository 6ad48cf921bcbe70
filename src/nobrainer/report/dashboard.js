// Draws the charts of one structure and the list of scans from the data in the page.
// All texts become text nodes, so that no name can be markup.
const data = JSON.parse(document.getElementById("cohort").textContent);
const { scans, columns, parts } = data;
const all = scans.name.map((_, number) => number);
const byId = (id) => document.getElementById(id);

const make = (tag, attributes = {}, ...inner) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inner);
  return element;
};
const draw = (tag, attributes = {}, ...inner) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inner);
  return element;
};
const number = (value, digits) =>
  value === null || !Number.isFinite(value) ? "\u2013" : value.toFixed(digits);
const linked = (scan) =>
  scans.page[scan] ? make("a", { href: scans.page[scan] }, scans.name[scan]) : scans.name[scan];
const levelOf = (column, scan) =>
  columns[column].of[scan] < 0 ? "n/a" : columns[column].levels[columns[column].of[scan]];

// --- one structure

// The volume in ml that goes with the median intracranial volume of the cohort.
const adjusted = (part, scan) => {
  const volume = part.volume[scan];
  if (volume === null || !part.adjusted) return volume === null ? null : volume / 1000;
  return scans.icv[scan] === null ? null : (volume * data.icv) / scans.icv[scan] / 1000;
};
const quantile = (sorted, share) => {
  const place = share * (sorted.length - 1), below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
};
const ticks = (low, high, most) => {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((one) => one * power >= raw);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high + 1e-9 * step; n++)
    found.push([n * step, (n * step).toFixed(digits)]);
  return found;
};
const scale = (values, from, to) => {
  let low = Math.min(...values), high = Math.max(...values);
  const margin = 0.03 * (high - low) || 0.05 * Math.abs(high) || 1;
  [low, high] = [low - margin, high + margin];
  const place = (value) => from + ((value - low) / (high - low)) * (to - from);
  return { low, high, place };
};
const mark = (part, scan, x, y) => {
  const text = `${scans.name[scan]}: ${number(adjusted(part, scan), 2)} ml, z ${describeZ(part, scan)}`;
  const dot = draw("circle", { cx: x, cy: y, r: 4, class: "mark" }, draw("title", {}, text));
  return scans.page[scan] ? draw("a", { href: scans.page[scan], "aria-label": text }, dot) : dot;
};
const describeZ = (part, scan) =>
  part.volume[scan] === 0 ? "not found" : number(part.z[scan] === null ? null : part.z[scan] / 100, 1);

const bottomAxis = (svg, axis, y, width) => {
  for (const [value, text] of ticks(axis.low, axis.high, Math.max(3, width / 90))) {
    const x = axis.place(value);
    svg.append(
      draw("path", { d: `M${x} 0V${y}`, class: "grid" }),
      draw("text", { x, y: y + 15, "text-anchor": "middle" }, text),
    );
  }
};

const showGroups = (part, split) => {
  const place = byId("groups"), width = Math.max(place.clientWidth, 240);
  const known = all.filter((scan) => adjusted(part, scan) !== null);
  if (!known.length) return place.replaceChildren("No scan has it.");
  const groups = [["all", known]];
  if (split >= 0)
    [...columns[split].levels.keys(), -1].forEach((level) => {
      const members = known.filter((scan) => columns[split].of[scan] === level);
      if (members.length) groups.push([level < 0 ? "n/a" : columns[split].levels[level], members]);
    });
  const left = Math.min(130, width / 3), top = 70, step = 30;
  const height = top + step * groups.length + 22;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Volumes by group" });
  const axis = scale(known.map((scan) => adjusted(part, scan)), left, width - 8);
  bottomAxis(svg, axis, height - 20, width - left);
  const n = 48, counts = Array(n).fill(0);
  const values = known.map((scan) => adjusted(part, scan));
  for (const value of values)
    counts[Math.min(n - 1, Math.floor(((value - axis.low) / (axis.high - axis.low)) * n))]++;
  const size = (width - 8 - left) / n, unit = (top - 8) / Math.max(...counts);
  const bars = counts.map((count, k) => count && `M${left + k * size} ${top}v${-count * unit}h${size - 0.7}v${count * unit}z`);
  svg.append(draw("path", { d: bars.filter(Boolean).join(""), class: "bars" }));
  const isOut = new Set(part.out);
  groups.forEach(([name, members], row) => {
    const y = top + step * (row + 0.5) + 2;
    const sorted = members.map((scan) => adjusted(part, scan)).sort((a, b) => a - b);
    const [p5, p25, p50, p75, p95] = [0.05, 0.25, 0.5, 0.75, 0.95].map((share) => axis.place(quantile(sorted, share)));
    const label = name.length > 15 ? `${name.slice(0, 14)}\u2026` : name;
    svg.append(
      draw("text", { x: 0, y: y - 1, class: "name" }, label, draw("title", {}, name)),
      draw("text", { x: 0, y: y + 12 }, `${members.length}`),
      draw("path", { d: `M${p5} ${y}H${p95}`, class: "axis" }),
      draw("rect", { x: p25, y: y - 7, width: Math.max(p75 - p25, 1), height: 14, class: "box" }),
      draw("path", { d: `M${p50} ${y - 9}V${y + 9}`, class: "middle" }),
      // The most extreme first; further ones would cover each other.
      ...members.filter((scan) => isOut.has(scan)).slice(0, 200)
        .map((scan) => mark(part, scan, axis.place(adjusted(part, scan)), y)),
    );
  });
  place.replaceChildren(svg);
};

const showAges = (part) => {
  const known = all.filter((scan) => scans.age[scan] !== null && adjusted(part, scan) !== null);
  byId("ages-figure").hidden = known.length < 2;
  if (known.length < 2) return;
  const place = byId("ages"), width = Math.max(place.clientWidth, 240), height = 280;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Volume against age" });
  const x = scale(known.map((scan) => scans.age[scan]), 48, width - 8);
  const y = scale(known.map((scan) => adjusted(part, scan)), height - 36, 8);
  bottomAxis(svg, x, height - 36, width);
  for (const [value, text] of ticks(y.low, y.high, 5))
    svg.append(
      draw("path", { d: `M48 ${y.place(value)}H${width - 8}`, class: "grid" }),
      draw("text", { x: 42, y: y.place(value) + 4, "text-anchor": "end" }, text),
    );
  svg.append(draw("text", { x: (width + 40) / 2, y: height - 4, "text-anchor": "middle" }, "age (years)"));
  const at = (scan) => [x.place(scans.age[scan]), y.place(adjusted(part, scan))];
  const isOut = new Set(part.out);
  const dots = known.filter((scan) => !isOut.has(scan)).map((scan) => at(scan).map((one) => one.toFixed(1)));
  // Few dots are large enough to be found, many small enough to be told apart.
  const size = Math.min(8, Math.max(3.6, 80 / Math.sqrt(dots.length)));
  svg.append(draw("path", { d: dots.map(([a, b]) => `M${a} ${b}h0`).join(""), class: "dots", "stroke-width": size }));
  svg.append(...known.filter((scan) => isOut.has(scan)).map((scan) => mark(part, scan, ...at(scan))));
  place.replaceChildren(svg);
};

const MOST_OUTLIERS = 20;
const listScans = (caption, found, heads, cells) => {
  const more = found.length - MOST_OUTLIERS;
  const rows = found.slice(0, MOST_OUTLIERS).map((scan) =>
    make("tr", {}, make("th", { scope: "row" }, linked(scan)), ...cells(scan).map((cell) => make("td", {}, cell))));
  const table = make("table", {},
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...["scan", ...heads].map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...rows));
  const inner = [make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption }, table)];
  if (more > 0) inner.push(make("p", {}, `And ${more} more: see group_structures.tsv.`));
  return inner;
};
const showOutliers = (part) => {
  const worth = (scan) => (part.volume[scan] === 0 ? Infinity : Math.abs(part.z[scan]));
  const out = [...part.out].sort((a, b) => worth(b) - worth(a));
  const wide = [...part.wide].sort((a, b) => part.width[b] - part.width[a]);
  const volume = (scan) => number(part.volume[scan] === null ? null : part.volume[scan] / 1000, 2);
  const half = (scan) => number(part.width[scan] === null ? null : part.width[scan] / 20, 1);
  const score = (scan) => number(scans.score[scan] === null ? null : scans.score[scan] / 1e4, 3);
  const heads = ["volume (ml)", "\u00b1 half interval (%)", "score"];
  const cells = (scan) => [volume(scan), half(scan), score(scan)];
  const content = [];
  if (out.length)
    content.push(...listScans(`Outliers: ${out.length}, the furthest first`, out, ["z", ...heads],
      (scan) => [describeZ(part, scan), ...cells(scan)]));
  if (wide.length)
    content.push(...listScans(`Wide intervals: ${wide.length}, the widest first`, wide, heads, cells));
  if (!content.length && data.compared) content.push(make("p", {}, "No outliers and no wide intervals."));
  byId("outliers").replaceChildren(...content);
};

const partOption = (part, at) => make("option", { value: at }, part.out.length ? `${part.name} (${part.out.length} outliers)` : part.name);
const showPart = () => {
  const part = parts[byId("part").value], split = Number(byId("split").value);
  byId("unit").textContent = part.adjusted
    ? `Volumes are in ml at the median intracranial volume of ${(data.icv / 1000).toFixed(0)} ml.`
    : "Volumes are in ml, not adjusted.";
  byId("groups-caption").textContent =
    "Line: 5 to 95 % of the scans; box: the middle half; bar: median; red: outliers.";
  for (const button of document.querySelectorAll(".choose"))
    button.setAttribute("aria-current", button.dataset.part === byId("part").value);
  showGroups(part, split);
  showAges(part);
  showOutliers(part);
};
byId("part").append(...parts.map(partOption));
byId("split").append(
  make("option", { value: -1 }, "none"),
  ...columns.map((column, at) => make("option", { value: at }, column.name)),
);
byId("split-label").hidden = !columns.length;
byId("split").value = data.site;
byId("part").value = parts.reduce((best, part, at) => (part.out.length > parts[best].out.length ? at : best), 0);
for (const id of ["part", "split"]) byId(id).addEventListener("change", showPart);
for (const button of document.querySelectorAll(".choose"))
  button.addEventListener("click", () => {
    byId("part").value = button.dataset.part;
    showPart();
    byId("one").scrollIntoView();
  });
let drawn = innerWidth;
addEventListener("resize", () => {
  if (drawn !== innerWidth) requestAnimationFrame(showPart);
  drawn = innerWidth;
});
showPart();

// --- the list of scans

const STEP = 50;
const fields = [
  { head: "scan", key: (scan) => scans.name[scan], cell: linked },
  { head: "score", key: (scan) => scans.score[scan], cell: (scan) => number(scans.score[scan] === null ? null : scans.score[scan] / 1e4, 3) },
];
if (data.compared)
  fields.push(
    { head: "outliers", key: (scan) => scans.outliers[scan], cell: (scan) => `${scans.outliers[scan] || ""}`, down: true },
    { head: "wide intervals", key: (scan) => scans.wide[scan], cell: (scan) => `${scans.wide[scan] || ""}`, down: true },
  );
if (data.icv !== null)
  fields.push({ head: "ICV (ml)", key: (scan) => scans.icv[scan], cell: (scan) => number(scans.icv[scan] === null ? null : scans.icv[scan] / 1000, 0) });
if (data.site >= 0)
  fields.push({ head: columns[data.site].name, key: (scan) => levelOf(data.site, scan), cell: (scan) => levelOf(data.site, scan) });
if (scans.age.some((age) => age !== null))
  fields.push({ head: "age", key: (scan) => scans.age[scan], cell: (scan) => number(scans.age[scan], 1) });
fields.push({ head: "reasons to look at it", key: (scan) => scans.flags[scan] || null, cell: (scan) => scans.flags[scan], text: true });

const searched = all.map((scan) =>
  [scans.name[scan], scans.flags[scan], ...columns.map((_, column) => levelOf(column, scan))].join("\n").toLowerCase());
const compare = (a, b) => {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
};
// Flagged scans first, then the lowest score, until a column is chosen.
const worst = (a, b) => !scans.flags[a] - !scans.flags[b] || compare(scans.score[a], scans.score[b]);
let sorted = null, isDown = false, shown = STEP;

const listed = () => {
  const query = byId("query").value.trim().toLowerCase(), kind = byId("kind").value;
  const found = all.filter((scan) => (kind === "all" || (kind === "flags" ? scans.flags[scan] : scans[kind][scan])) && searched[scan].includes(query));
  if (!sorted) return found.sort(worst);
  const key = sorted.key;
  // What is not known stays last in both directions.
  return found.sort((a, b) => {
    const order = compare(key(a), key(b));
    return isDown && key(a) !== null && key(b) !== null ? -order : order;
  });
};
const showList = () => {
  const found = listed(), part = found.slice(0, shown);
  byId("rows").replaceChildren(...part.map((scan) =>
    make("tr", {}, ...fields.map((field, n) =>
      make(n ? "td" : "th", n ? (field.text ? { class: "text" } : {}) : { scope: "row" }, field.cell(scan))))));
  byId("count").textContent = `${part.length.toLocaleString("en")} of ${found.length.toLocaleString("en")} scans`;
  byId("further").hidden = found.length <= shown;
  [...byId("heads").children].forEach((head, n) =>
    head.setAttribute("aria-sort", fields[n] !== sorted ? "none" : isDown ? "descending" : "ascending"));
};
byId("heads").append(...fields.map((field) => {
  const button = make("button", { type: "button", class: "sort" }, field.head);
  button.addEventListener("click", () => {
    isDown = sorted === field ? !isDown : Boolean(field.down);
    [sorted, shown] = [field, STEP];
    showList();
  });
  return make("th", field.text ? { scope: "col", class: "text" } : { scope: "col" }, button);
}));
for (const id of ["query", "kind"])
  byId(id).addEventListener("input", () => {
    shown = STEP;
    showList();
  });
byId("further").addEventListener("click", () => {
  shown += STEP;
  showList();
});
showList();
