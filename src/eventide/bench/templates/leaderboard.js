"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const FILTERS = ["hardware", "op_type", "author", "language"];
const byId = (id) => document.getElementById(id);

// elements are made from text only, so that no name or log can become markup
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") node.addEventListener("click", value);
    else if (value !== undefined && value !== null) node.setAttribute(key, value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}
function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
const isNumber = (v) => typeof v === "number";
const fixed = (v, digits = 2) => (isNumber(v) ? (v >= 1000 ? v.toFixed(0) : v.toFixed(digits)) : v === undefined || v === null ? "–" : String(v));
const ms = (v) => (isNumber(v) ? (v < 0.01 ? v.toPrecision(3) : v.toFixed(v < 1 ? 4 : 3)) : "–");
const rate = (v) => (isNumber(v) ? (v < 0.1 ? v.toPrecision(2) : fixed(v)) : "–");
const range = (pair, format = fixed) => (pair ? `${format(pair[0])} … ${format(pair[1])}` : "no interval");
const readable = (status) => status.toLowerCase().replaceAll("_", " ");

function fillFilters() {
  for (const key of FILTERS) {
    const select = byId("f-" + key);
    const counts = new Map();
    for (const row of DATA.rows) counts.set(row[key], (counts.get(row[key]) ?? 0) + 1);
    const values = [...counts.keys()].sort();
    // times of different machines do not compare, so one hardware is always chosen: first the one with most results
    if (key === "hardware") values.sort((a, b) => counts.get(b) - counts.get(a));
    if (key !== "hardware") select.append(el("option", { value: "" }, "all"));
    for (const value of values) select.append(el("option", { value }, value));
    select.addEventListener("change", draw);
  }
  byId("f-text").addEventListener("input", draw);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
}
function visibleRows() {
  const text = byId("f-text").value.trim().toLowerCase();
  return DATA.rows.filter(
    (r) =>
      FILTERS.every((key) => !byId("f-" + key).value || r[key] === byId("f-" + key).value) &&
      (!text || r.definition.toLowerCase().includes(text) || r.solution.toLowerCase().includes(text)),
  );
}
function group(rows, key) {
  const groups = new Map();
  for (const row of rows) groups.set(row[key], [...(groups.get(row[key]) ?? []), row]);
  return groups;
}
// rows come best first within a definition, so the first of an author is the author's best
const bestOf = (rows) => [...group(rows, "definition").values()].map((g) => g[0]);
const speedups = (rows) => rows.flatMap((r) => r.results.filter((x) => x.status === "PASSED" && isNumber(x.speedup)).map((x) => x.speedup));
const totalWorkloads = (rows) => rows.reduce((sum, r) => sum + r.workloads, 0);

function drawCurves(rows) {
  const place = byId("curves");
  place.replaceChildren();
  const one = new Set(rows.map((r) => r.definition)).size === 1;
  const lines = [...group(rows, one ? "solution" : "author")]
    .map(([name, mine]) => ({ name, values: speedups(one ? mine : bestOf(mine)).sort((a, b) => a - b), total: totalWorkloads(one ? mine : bestOf(mine)) }))
    .filter((l) => l.total > 0)
    .sort((a, b) => b.values.length / b.total - a.values.length / a.total || a.name.localeCompare(b.name))
    .slice(0, 8);
  const all = lines.flatMap((l) => l.values).filter((v) => v > 0);
  if (!all.length) return void place.append(el("p", { class: "soft" }, "No correct result in this selection."));
  const W = Math.max(300, Math.min(1080, place.clientWidth - 24)), H = W < 500 ? 220 : 280;
  const left = 44, right = 12, top = 10, bottom = 40;
  const lo = Math.log2(Math.min(0.5, Math.min(...all))) - 0.1, hi = Math.log2(Math.max(2, Math.max(...all))) + 0.15;
  const x = (p) => left + ((Math.log2(p) - lo) / (hi - lo)) * (W - left - right);
  const y = (share) => top + (1 - share) * (H - top - bottom);
  const chart = svg("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": "fast_p curves", style: "max-width:100%;height:auto" });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    chart.append(svg("line", { x1: left, x2: W - right, y1: y(share), y2: y(share), class: "axis" }));
    chart.append(svg("text", { x: left - 8, y: y(share) + 4, "text-anchor": "end" }, `${share * 100}%`));
  }
  const step = Math.max(1, Math.ceil((hi - lo) / (W / 70)));
  for (let e = Math.ceil(lo); e <= hi; e += step) {
    chart.append(svg("text", { x: x(2 ** e), y: H - bottom + 18, "text-anchor": "middle" }, e < 0 ? `1/${2 ** -e}` : `${2 ** e}×`));
  }
  if (lo < 0 && hi > 0) chart.append(svg("line", { x1: x(1), x2: x(1), y1: top, y2: H - bottom, class: "one" }));
  chart.append(svg("text", { x: (left + W - right) / 2, y: H - 4, "text-anchor": "middle" }, "p (speedup over the reference)"));
  const legend = el("div", { class: "legend" });
  lines.forEach((line, i) => {
    const colour = `var(--c${i})`, dash = ["", "7 4", "2 3", "9 3 2 3"][i % 4];
    let path = `M${x(2 ** lo)},${y(line.values.length / line.total)}`;
    line.values.forEach((v, k) => { path += `H${x(v).toFixed(1)}V${y((line.values.length - k - 1) / line.total).toFixed(1)}`; });
    path += `H${W - right}`;
    chart.append(svg("path", { d: path, fill: "none", style: `stroke:${colour}`, "stroke-width": 2.5, "stroke-dasharray": dash }, svg("title", {}, line.name)));
    const key = svg("svg", { width: 28, height: 8, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 28, y1: 4, y2: 4, style: `stroke:${colour}`, "stroke-width": 3, "stroke-dasharray": dash }));
    const faster = line.values.filter((v) => v > 1).length;
    legend.append(el("span", {}, key, `${line.name}: fast_1 ${((100 * faster) / line.total).toFixed(0)}%`));
  });
  place.append(chart, legend);
}
function cell(label, text, kind = "num", extra = {}) {
  return el("td", { class: kind, "data-label": label, ...extra }, text);
}
function grid(labels, rows) {
  const head = el("thead", {}, el("tr", {}, ...labels.map(([text, kind]) => el("th", { class: kind, scope: "col" }, text))));
  return el("table", { class: "stack" }, head, el("tbody", {}, ...rows));
}
function drawAuthors(rows) {
  const lines = [...group(rows, "author")].map(([author, mine]) => {
    const best = bestOf(mine);
    const share = speedups(best).filter((v) => v > 1).length / totalWorkloads(best);
    return { author, score: best.reduce((s, r) => s + r.score, 0) / best.length, count: best.length, share };
  });
  lines.sort((a, b) => b.score - a.score || a.author.localeCompare(b.author));
  byId("authors").replaceChildren(
    grid([["author", "name"], ["score", "num"], ["fast_1", "num"], ["definitions", "num"]], lines.map((l) =>
      el("tr", {}, cell("", l.author, "name"), cell("score", fixed(l.score, 3)), cell("fast_1", `${(100 * l.share).toFixed(0)}%`), cell("definitions", l.count)))),
  );
}
function intervalBar(row, lo, hi) {
  if (!row.interval || !isNumber(row.speedup)) return "";
  const x = (v) => 4 + (102 * (Math.log2(v) - lo)) / (hi - lo || 1);
  const [a, b] = row.interval.map(x);
  return svg("svg", { class: "interval", viewBox: "0 0 110 12", role: "img", "aria-label": `speedup interval ${range(row.interval)}` },
    svg("line", { x1: 0, x2: 110, y1: 6, y2: 6, class: "axis" }),
    svg("rect", { x: a, width: Math.max(2, b - a), y: 2, height: 8, rx: 2, style: "fill:var(--bar)" }),
    svg("circle", { cx: x(row.speedup), cy: 6, r: 3, style: "fill:var(--accent)" }));
}
function drawDefinitions(rows) {
  const blocks = [...group(rows, "definition")].map(([name, mine]) => {
    const facts = DATA.definitions[name];
    const ends = mine.filter((r) => r.interval).flatMap((r) => r.interval).filter((v) => v > 0).map(Math.log2);
    const lo = Math.min(...ends), hi = Math.max(...ends);
    const lines = mine.map((r, i) => {
      const next = mine[i + 1];
      const clear = next && r.interval && next.interval && r.interval[0] > next.interval[1];
      const mark = clear ? el("span", { class: "good", title: "the intervals do not touch the next one's" }, " ▲") : "";
      const link = el("button", { type: "button", class: "link", onclick: () => openDetail(r) }, r.solution);
      const td = el("td", { class: "name" }, link);
      const speed = el("td", { class: "num", "data-label": "speedup" }, fixed(r.speedup), mark);
      const whole = r.passed === r.workloads;
      return el("tr", {}, td, cell("author", r.author, ""), cell("language", r.language, ""), cell("score", fixed(r.score, 3)), speed,
        cell("interval", range(r.interval)), el("td", { "data-label": "" }, intervalBar(r, lo, hi)),
        cell("passed", `${r.passed}/${r.workloads}`, `num ${whole ? "good" : "bad"}`));
    });
    const axes = facts ? Object.entries(facts.axes).map(([k, v]) => (v === null ? k : `${k}=${v}`)).join(" ") : "";
    const head = el("div", { class: "head" }, el("h3", {}, name), el("span", { class: "tag" }, mine[0].op_type), el("span", { class: "soft" }, axes));
    const labels = [["solution", "name"], ["author", ""], ["language", ""], ["score", "num"], ["speedup", "num"], ["interval", "num"], ["", ""], ["passed", "num"]];
    return el("article", { class: "panel definition" }, head, facts && facts.description ? el("p", { class: "hint" }, facts.description) : null,
      el("div", { class: "scroll" }, grid(labels, lines)));
  });
  byId("definitions").replaceChildren(...(blocks.length ? blocks : [el("p", { class: "soft" }, "Nothing fits these filters.")]));
}
function openDetail(row) {
  const solution = DATA.solutions[row.solution];
  byId("detail-title").textContent = row.solution;
  const body = byId("detail-body");
  const facts = [row.definition, row.author, row.language, row.hardware, solution ? solution.entry_point : null, solution ? `sha1 ${solution.hash}` : null];
  body.replaceChildren(el("p", { class: "soft" }, facts.filter(Boolean).join(" · ")));
  if (solution && solution.description) body.append(el("p", {}, solution.description));
  const failed = row.results.filter((r) => r.status !== "PASSED");
  // columns of rates only where somebody said how much work a call is
  const rates = [["tflops", "TFLOP/s"], ["gbs", "GB/s"]].filter(([key]) => row.results.some((r) => isNumber(r[key])));
  const lines = row.results.map((r) => el("tr", {},
    el("td", { class: "name" }, Object.entries(r.axes).map(([k, v]) => `${k}=${v}`).join(" ") || r.uuid),
    cell("status", readable(r.status), r.status === "PASSED" ? "good" : "bad"), cell("ms", ms(r.ms)), cell("interval", r.ms_interval ? range(r.ms_interval, ms) : "–"),
    cell("reference ms", ms(r.ref)), cell("speedup", fixed(r.speedup)), ...rates.map(([key, label]) => cell(label, rate(r[key]))),
    cell("max abs error", isNumber(r.abs) ? r.abs.toExponential(1) : fixed(r.abs))));
  const labels = [["workload", "name"], ["status", ""], ["ms", "num"], ["interval", "num"], ["reference ms", "num"], ["speedup", "num"],
    ...rates.map(([, label]) => [label, "num"]), ["max abs error", "num"]];
  body.append(el("h2", {}, "Workloads"), el("div", { class: "scroll" }, grid(labels, lines)));
  if (failed.length) {
    body.append(el("h2", {}, "Errors"));
    for (const r of failed) body.append(el("details", { open: failed.length === 1 ? "" : null }, el("summary", {}, `${readable(r.status)} on ${r.uuid}`), el("pre", {}, r.message || "no log")));
  }
  body.append(el("h2", {}, "Source"));
  for (const file of solution ? solution.sources : []) body.append(el("details", { open: solution.sources.length === 1 ? "" : null }, el("summary", {}, file.path), el("pre", {}, file.content)));
  if (!solution || !solution.sources.length) body.append(el("p", { class: "soft" }, "The source is not in this page."));
  const measured = Object.entries(row.measured ?? {});
  if (measured.length) {
    const facts = measured.map(([k, v]) => el("tr", {}, el("td", { class: "soft" }, k.replaceAll("_", " ")), el("td", {}, v)));
    body.append(el("h2", {}, "How it was measured"), el("table", { class: "facts-table" }, el("tbody", {}, ...facts)));
  }
  byId("detail").showModal();
  body.scrollTop = 0;
}
function draw() {
  const rows = visibleRows();
  drawCurves(rows);
  drawAuthors(rows);
  drawDefinitions(rows);
}
byId("close").addEventListener("click", () => byId("detail").close());
byId("detail").addEventListener("click", (event) => { if (event.target === byId("detail")) byId("detail").close(); });
fillFilters();
draw();
let lastWidth = innerWidth;
addEventListener("resize", () => { if (innerWidth !== lastWidth) { lastWidth = innerWidth; draw(); } });
