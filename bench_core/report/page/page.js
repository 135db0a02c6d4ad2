// The page's program: one state (what is shown, what is highlighted, which limits are set); figures, table and answer
// follow from it. Text from a run enters the page as text nodes only.

// A page of one run has one part. A page of several has one for each set of runs that may share a ranking, and shows one
// part at a time, so that no figure, table or choice ever holds cells of two.
const whole = JSON.parse(document.getElementById("data").textContent);
const parts = whole.parts ?? [whole];
let data, byKey, byPoint, byMethod, colours, words, names, ordered;
const OUTCOMES = {oom_load: "out of memory", oom_kv: "out of memory", oom_runtime: "out of memory"};
// MOST_DRAWN: methods of one figure. More could not be told apart, and a thousand take a browser minutes.
const MOST_STRONG = 8, MOST_DRAWN = 40, FIRST_ROWS = 200;

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made && key !== "list") made[key] = value; else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const state = {
  picked: new Set(),
  cells: () => data.cells,
  methods: () => data.methods,
  at: (point) => byPoint.get(point) ?? [],
  of: (key) => byMethod.get(key) ?? [],
  place: (point) => data.points.findIndex((other) => other.word === point),
  pointWords: () => words.get(state.point) ?? "",
  outcome: (word) => OUTCOMES[word] ?? word.replaceAll("_", " "),
  look: (cell) => {
    const method = byKey.get(cell.method);
    return {method: cell.method, label: method.label, name: names.get(cell.method), colour: colours.get(method.image), shape: method.shape,
      dash: method.dash, point: words.get(cell.point), pointWord: cell.point.replace("_", "."), line: cell.method + cell.point.replace(/\d[\d_]*/, ""),
      remarks: (cell.remarks ?? []).join(", ")};
  },
};

// Takes a part: all that is looked up of it.
function take(part) {
  data = part;
  byKey = new Map(data.methods.map((method) => [method.key, method]));
  colours = new Map(data.engines.map((engine) => [engine.image, engine.colour]));
  words = new Map(data.points.map((point) => [point.word, point.words]));
  byPoint = grouped(data.cells, (cell) => cell.point);
  byMethod = grouped(data.cells, (cell) => cell.method);
  // Labels of two methods may be equal: then their keys stand behind.
  const labels = grouped(data.methods, (method) => method.label);
  names = new Map(data.methods.map((method) => [method.key,
    labels.get(method.label).length > 1 ? `${method.label} (${method.key})` : method.label]));
  ordered = bestFirst();
  state.data = data;
  state.hasQuality = data.quality;
  state.point = data.points.find((point) => data.cells.some((cell) => cell.point === point.word && cell.ranked))?.word ?? data.points[0]?.word;
  state.picked.clear();
}

function grouped(items, key) {
  const found = new Map();
  for (const item of items) {
    const name = key(item);
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(item);
  }
  return found;
}

// Methods by their best place in throughput at any batch size or load.
function bestFirst() {
  const places = new Map(data.methods.map((method) => [method.key, Infinity]));
  for (const cells of byPoint.values()) {
    const ranked = cells.filter((cell) => cell.throughput_tok_s && cell.unranked === undefined)
      .sort((a, b) => b.throughput_tok_s[0] - a.throughput_tok_s[0]);
    ranked.forEach((cell, place) => places.set(cell.method, Math.min(places.get(cell.method), place)));
  }
  return [...places].sort((a, b) => (a[1] === b[1] ? 0 : a[1] - b[1])).map(([key]) => key);
}

// Rows of the methods that a figure has room for, and what is said of the others.
function roomFor(rows, chart) {
  const methods = new Set(rows.map((row) => row.method));
  if (methods.size <= MOST_DRAWN) return {rows, left: ""};
  const order = chart.sorted ? [...methods] : ordered.filter((key) => methods.has(key));
  const kept = new Set([...state.picked, ...order.slice(0, MOST_DRAWN)]);
  const which = chart.sorted ? "the first" : "the best at some batch size or load";
  return {rows: rows.filter((row) => kept.has(row.method)), left: `${MOST_DRAWN} of ${methods.size.toLocaleString("en")} methods: ${which}; the tables have all`};
}

function strong() {
  if (state.picked.size) return [...state.picked];
  const ranked = state.at(state.point).filter((cell) => cell.ranked).sort((a, b) => b.throughput_tok_s[0] - a.throughput_tok_s[0]);
  if (data.methods.length <= MOST_STRONG || ranked.length < 2) return data.methods.map((method) => method.key);
  return ranked.slice(0, MOST_STRONG).map((cell) => cell.method);
}

// --- figures ---

const charts = [];
const views = new Map();
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.find((one) => one.place === entry.target);
    if (!chart) continue;
    chart.visible = entry.isIntersecting;
    if (chart.visible && chart.dirty) draw(chart);
  }
}, {rootMargin: "300px"});
window.addEventListener("beforeprint", () => charts.filter((chart) => chart.dirty).forEach(draw));

function placeFigures() {
  const grid = document.getElementById("grid");
  seen.disconnect();
  views.forEach((view) => view.finalize());
  views.clear();
  grid.replaceChildren();
  charts.splice(0, charts.length, {...FASTEST, place: document.getElementById("chart-fastest")});
  for (const chart of figures(data)) {
    if (!chart.rows(state).length && !data.points.some((point) => chart.rows({...state, point: point.word}).length)) continue;
    const place = element("figure", {className: "chart", id: `chart-${chart.id}`});
    grid.append(place);
    charts.push({...chart, place});
  }
  document.getElementById("figures").hidden = charts.length === 1;
  for (const chart of charts) {
    chart.place.replaceChildren(element("h3", {textContent: chart.title}), element("div", {className: "plot"}), element("figcaption"));
    chart.dirty = true;
    seen.observe(chart.place);
  }
}

async function draw(chart) {
  chart.dirty = false;
  const {rows, left} = roomFor(chart.rows(state), chart);
  const caption = rows.length ? [chart.caption(state, rows), left].filter(Boolean).join("; ") : "";
  const plot = chart.place.querySelector(".plot");
  chart.place.querySelector("figcaption").textContent = caption;
  views.get(chart.id)?.finalize();
  views.delete(chart.id);
  if (!rows.length) {
    plot.replaceChildren(element("p", {className: "note", textContent: `No cell has this number at ${state.pointWords()}.`}));
    return;
  }
  const spec = {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json", config: CONFIG, width: "container", autosize: {type: "fit-x", contains: "padding"},
    description: `${chart.title}. ${caption}`, data: {name: "cells"}, datasets: {cells: rows},
    params: [{name: "strong", value: strong()}, {name: "picked", value: [...state.picked]}], ...chart.spec(rows, state),
  };
  try {
    const {view} = await window.vegaEmbed(plot, spec, {actions: false, renderer: "svg", mode: "vega-lite", logLevel: 1});
    if (!charts.includes(chart)) {
      view.finalize();
      return;
    }
    views.set(chart.id, view);
    view.addEventListener("click", (_, item) => item?.datum?.method && pick(item.datum.method));
  } catch (error) {
    plot.replaceChildren(element("p", {className: "note", textContent: `This figure could not be drawn: ${error.message}`}));
    console.error(error);
  }
}

function redraw() {
  for (const chart of charts) {
    chart.dirty = true;
    if (chart.visible) draw(chart);
  }
}

function highlight() {
  const shown = strong();
  for (const view of views.values()) view.signal("strong", shown).signal("picked", [...state.picked]).runAsync();
  for (const button of document.querySelectorAll(".legend button[data-method]")) {
    button.setAttribute("aria-pressed", String(state.picked.has(button.dataset.method)));
    button.classList.toggle("faded", !shown.includes(button.dataset.method));
  }
  for (const button of document.querySelectorAll(".legend button.none")) button.hidden = !state.picked.size;
}

function pick(key) {
  if (state.picked.has(key)) state.picked.delete(key); else state.picked.add(key);
  if (data.methods.length > MOST_DRAWN) {  // it may have been drawn nowhere
    fillLegend();
    redraw();
  }
  highlight();
  fillTable();
}

// --- legend and points ---

const PATHS = {circle: "M6,1a5,5 0 1,0 .01,0z", square: "M2,2h8v8h-8z", "triangle-up": "M6,1l5,9.5h-10z", diamond: "M6,0l5,6l-5,6l-5,-6z",
  "triangle-down": "M6,11l5,-9.5h-10z", cross: "M4,1h4v3h3v4h-3v3h-4v-3h-3v-4h3z", "triangle-right": "M1.5,1l9.5,5l-9.5,5z"};

function sign(key) {
  const method = byKey.get(key), made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.setAttribute("viewBox", "0 0 12 12");
  made.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[method.shape]);
  path.setAttribute("fill", colours.get(method.image));
  made.append(path);
  return made;
}

function fillLegend() {
  const order = new Map(state.at(state.point).map((cell) => [cell.method, cell.throughput_tok_s?.[0] ?? 0]));
  const methods = [...data.methods].sort((a, b) => a.scripted - b.scripted || (order.get(b.key) ?? -1) - (order.get(a.key) ?? -1));
  const shown = methods.filter((method, place) => place < MOST_DRAWN || state.picked.has(method.key));
  const left = methods.length - shown.length;
  // Above the bars and above the figures, which are a screen or more below.
  for (const home of document.querySelectorAll(".legend")) {
    const buttons = shown.map((method) => {
      const button = element("button", {type: "button", title: names.get(method.key)}, sign(method.key), element("span", {textContent: names.get(method.key)}));
      button.dataset.method = method.key;
      button.addEventListener("click", () => pick(method.key));
      return button;
    });
    const all = element("button", {type: "button", className: "none", textContent: "Highlight none", hidden: !state.picked.size});
    all.addEventListener("click", () => { state.picked.clear(); highlight(); fillTable(); });
    const more = left ? element("span", {className: "note", textContent: `${left.toLocaleString("en")} more ${left === 1 ? "method" : "methods"}: in the tables`}) : null;
    home.replaceChildren(...[...buttons, more, all].filter(Boolean));
  }
}

// Buttons of which one is on; arrows move between them.
function radios(home, entries, chosen, choose) {
  const focused = home.contains(document.activeElement);
  home.replaceChildren(...entries.map(({word, words: text}, place) => {
    const button = element("button", {type: "button", textContent: text, tabIndex: word === chosen ? 0 : -1});
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", String(word === chosen));
    button.addEventListener("click", () => choose(word));
    button.addEventListener("keydown", (event) => {
      const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
      if (!step) return;
      event.preventDefault();
      choose(entries[(place + step + entries.length) % entries.length].word);
    });
    return button;
  }));
  home.hidden = entries.length < 2;
  if (focused) home.querySelector("[aria-checked=true]").focus();
}

function fillPoints() {
  radios(document.getElementById("points"), data.points, state.point, choosePoint);
  say();
}

// The sentences of the chosen point, as Python made them.
function say() {
  const said = data.points.find((point) => point.word === state.point)?.verdict;
  if (said) document.querySelector("ul.verdict").replaceChildren(...said.map((sentence) => element("li", {textContent: sentence})));
}

function choosePoint(word) {
  state.point = word;
  fillPoints();
  fillLegend();
  answer();
  redraw();
  highlight();
}

// --- the choice: the steps of bench_core/report/decide/choose.py ---

function limitsOf(form) {
  const limits = {};
  for (const input of form.querySelectorAll("input")) {
    const text = input.value.trim().replace(",", ".");
    const number = text === "" ? undefined : Number(text);
    const wrong = number !== undefined && !(number >= 0 && Number.isFinite(number));
    input.setAttribute("aria-invalid", String(wrong));
    if (number !== undefined && !wrong) limits[input.name] = number;
  }
  return limits;
}

function answer() {
  const limits = limitsOf(document.getElementById("chooser"));
  const {fits, out, by} = choose(state.at(state.point), wantedOf(limits));
  const home = document.getElementById("answer");
  const order = by === "ttft_s" ? "shortest TTFT first" : "fastest first";
  const lines = fits.slice(0, MOST_DRAWN).map(({cell, tied: same, close}) => {
    const facts = [`${cell.says.replace("± ", "±\u00a0")}\u00a0token/s`, cell.memory_bytes === undefined ? null : `${MEMORY(cell.memory_bytes / GIB)}\u00a0GiB`,
      cell.ttft_s ? `TTFT ${SAYS(cell.ttft_s[0])}\u00a0s` : null, ...costTexts(cell, limits)].filter(Boolean).join(", ");
    const open = element("button", {type: "button", className: "open", textContent: names.get(cell.method)});
    open.addEventListener("click", () => showCell(cell));
    return element("li", {}, sign(cell.method), " ", open, `: ${facts} `, ...remarksOf(cell),
      same ? badge("tied", "Statistically tied with the first: the difference is within the two intervals.") : null,
      close.length ? badge("close", `Its interval holds the limit of ${close.map((key) => NAMES[key]).join(", ")}: measured again, it may come out otherwise.`) : null);
  });
  const ruled = out.slice(0, MOST_DRAWN).map(({cell, reasons}) => element("li", {}, sign(cell.method), ` ${names.get(cell.method)}: `,
    element("span", {className: "why", textContent: reasons.map((reason) => reasonText(reason, cell)).join("; ")})));
  const reserved = out.filter(({cell, reasons}) => reasons.length === 1 && wouldFit(reasons[0], cell)).length;
  const ruledOut = `Ruled out: ${out.length}` + (reserved ? `, of which ${reserved} might fit with less memory reserved` : "");
  home.replaceChildren(...[
    element("strong", {textContent: fits.length ? `${fits.length} of ${fits.length + out.length} fit at ${state.pointWords()}, ${order}` : `Nothing fits at ${state.pointWords()}`}),
    fits.length ? element("ol", {}, ...lines) : null,
    moreThan(fits, "fit"),
    out.length ? element("details", {open: !fits.length}, element("summary", {textContent: ruledOut}), element("ul", {}, ...ruled), moreThan(out, "are ruled out") ?? "") : null,
    element("p", {className: "note", textContent: [ofTheOrder(fits, by), ofThePoint(), data.quality ? "" : "This run does not tell quality loss: its weights are random, or no text was scored."].filter(Boolean).join(" ")}),
  ].filter(Boolean));
}

// Why the list is not in the order of its numbers.
function ofTheOrder(fits, by) {
  const shown = fits.map(({cell}) => cell.throughput_tok_s[0]);
  return by === "ttft_s" || shown.every((value, place) => !place || shown[place - 1] >= value) ? ""
    : "Without an interval, methods are ranked by the batches that others measured too, not by these numbers.";
}

// What a batch size is not.
function ofThePoint() {
  const size = state.at(state.point)[0]?.batch_size;
  return size === undefined ? "" : `Batch size ${size} is ${size === 1 ? "one prompt" : `${size} prompts`} in one call, all started together. Users who come and go are another measurement: --concurrency, --request-rate.`;
}

// Of a list that shows some alone.
function moreThan(list, what) {
  const left = list.length - MOST_DRAWN;
  return left > 0 ? element("p", {className: "note", textContent: `${left.toLocaleString("en")} more ${what}; the tables have all.`}) : null;
}

function wantedOf(limits) {
  const found = {};
  if (limits.memory_gib !== undefined) found.memory = limits.memory_gib * GIB;
  for (const [name, from, factor] of [["throughput_tok_s", "throughput_tok_s", 1], ["ttft_s", "ttft_s", 1], ["tpot_s", "tpot_ms", 1e-3],
    ["ttft_p99_s", "ttft_p99_s", 1], ["tpot_p99_s", "tpot_p99_ms", 1e-3], ["quality", "quality_percent", 1e-2]]) {
    if (limits[from] !== undefined) found[name] = limits[from] * factor;
  }
  return found;
}

const WORDS = {memory: ["needs", 1 / GIB, "GiB"], throughput_tok_s: ["gives", 1, "token/s"], ttft_s: ["TTFT is", 1, "s"], tpot_s: ["TPOT is", 1e3, "ms"],
  ttft_p99_s: ["TTFT p99 is", 1, "s"], tpot_p99_s: ["TPOT p99 is", 1e3, "ms"], quality: ["perplexity is higher by", 100, "%"]};
// As tables write memory, and a limit as it was given.
const MEMORY = (gib) => significant(gib, 3), GIVEN = (number) => String(Number(number.toPrecision(6)));

const NAMES = {memory: "memory", throughput_tok_s: "throughput", ttft_s: "TTFT", tpot_s: "TPOT", ttft_p99_s: "TTFT p99", tpot_p99_s: "TPOT p99", quality: "quality"};

function reasonText({key, value, limit, close}, cell) {
  if (key === "outcome") return state.outcome(cell.outcome) + (cell.cause ? `: ${cell.cause}` : "");
  if (key === "saturated") return "saturated: more was offered than it could take";
  if (key === "unranked") return `not ranked: ${cell.unranked}`;
  const [verb, factor, unit] = WORDS[key];
  const write = (number) => `${SAYS(number * factor)} ${unit}`, given = `${GIVEN(limit * factor)} ${unit}`;
  if (wouldFit({key, value, limit}, cell)) return `reserved ${write(value)}, the limit is ${given}; it did not use ${write(cell.unused_bytes)} of that, so with less reserved it might fit: not measured`;
  if (value === null) return `${NAMES[key]} is not known`;
  return `${verb} ${write(value)}, the limit is ${given}${close ? " (its interval holds the limit)" : ""}`;
}

function wouldFit({key, value, limit}, cell) {
  return key === "memory" && value !== null && cell.unused_bytes !== undefined && value - cell.unused_bytes <= limit;
}

// Per million output tokens, as bench_core/report/decide/cost.py: price / 3600 / throughput x 1e6 with the throughput's
// interval turned round, and joules per token x 1e6 / 3.6e6 x price of a kWh.
function deviceCost(cell, limits) {
  const [rate, low, high] = cell.throughput_tok_s ?? [];
  if (limits.gpu_hour_price === undefined || !(rate > 0)) return undefined;
  const perSecond = limits.gpu_hour_price / 3600 * 1e6;
  return known(low) && known(high) && low > 0 ? [perSecond / rate, perSecond / high, perSecond / low] : [perSecond / rate, null, null];
}

function energyCost(cell, limits) {
  return limits.kwh_price === undefined || !known(cell.joules_per_token) ? undefined : cell.joules_per_token / 3.6 * limits.kwh_price;
}

function costTexts(cell, limits) {
  const device = deviceCost(cell, limits), energy = energyCost(cell, limits);
  return [device === undefined ? null : `a million output tokens cost ${within(...device)}`, energy === undefined ? null : `energy for a million output tokens costs ${SAYS(energy)}`];
}

// --- tables ---

function badge(word, explanation, failed = false) {
  const made = element("span", {className: failed ? "badge failed" : "badge", tabIndex: 0, textContent: word});
  made.dataset.tip = explanation;
  made.setAttribute("aria-label", `${word}: ${explanation}`);
  return made;
}

const COLUMNS = [
  ["Method", (cell) => names.get(cell.method), null],
  ["At", (cell) => state.place(cell.point), (_, cell) => words.get(cell.point)],
  ["Throughput (token/s)", (cell) => cell.throughput_tok_s?.[0], (_, cell) => cell.says.replace("± ", "±\u00a0"), "descending"],
  ["TTFT (s)", (cell) => cell.ttft_s?.[0], SAYS], ["TPOT (ms)", (cell) => cell.tpot_s && cell.tpot_s[0] * 1e3, SAYS],
  ["TTFT p99 (s)", (cell) => cell.ttft_p99_s?.[0], SAYS], ["TPOT p99 (ms)", (cell) => cell.tpot_p99_s && cell.tpot_p99_s[0] * 1e3, SAYS],
  [() => (data.on_gpu ? "GPU memory (GiB)" : "Host memory (GiB)"), (cell) => cell.memory_bytes && cell.memory_bytes / GIB, (gib) => MEMORY(gib)],
  ["Energy (J/1000 tokens)", (cell) => cell.joules_per_token && cell.joules_per_token * 1000, SAYS],
  ["Perplexity", (cell) => (data.quality ? cell.perplexity : undefined), SAYS], ["Bits per weight", (cell) => cell.bits, (bits) => GIVEN(bits.toPrecision(4) * 1)],
  ["Cost of a million output tokens", (cell) => deviceCost(cell, priced())?.[0], (_, cell) => within(...deviceCost(cell, priced()))],
  ["Energy cost of a million output tokens", (cell) => energyCost(cell, priced()), SAYS],
];
const priced = () => limitsOf(document.getElementById("chooser"));
const titleOf = ([title]) => (typeof title === "function" ? title() : title);
const sorting = {column: 2, down: true, all: false};
const filters = {};

function fillFilters() {
  const select = (name, label, entries) => {
    const made = element("select", {id: `filter-${name}`}, element("option", {value: "", textContent: "all"}),
      ...entries.map(([value, text]) => element("option", {value, textContent: text})));
    made.addEventListener("change", () => { filters[name] = made.value; sorting.all = false; fillTable(); });
    return element("label", {htmlFor: made.id}, label, made);
  };
  const bits = [...new Set(data.methods.map((method) => method.bits && Math.round(method.bits)).filter(Boolean))].sort((a, b) => a - b);
  const outcomes = [...new Set(data.cells.map((cell) => cell.outcome))].sort();
  const search = element("input", {id: "filter-text", type: "search", placeholder: "method"});
  search.addEventListener("input", () => { filters.text = search.value.toLowerCase(); fillTable(); });
  document.getElementById("filters").replaceChildren(
    element("label", {htmlFor: "filter-text"}, "Name", search),
    select("engine", "Engine", data.engines.map((engine) => [engine.image, engine.image])),
    ...(bits.length ? [select("bits", "Bits per weight, about", bits.map((number) => [String(number), String(number)]))] : []),
    select("point", "At", data.points.map((point) => [point.word, point.words])),
    select("outcome", "Outcome", outcomes.map((word) => [word, state.outcome(word)])));
}

function kept(cell) {
  const method = byKey.get(cell.method);
  return (!filters.text || names.get(cell.method).toLowerCase().includes(filters.text)) && (!filters.engine || method.image === filters.engine)
    && (!filters.bits || String(Math.round(method.bits ?? 0)) === filters.bits) && (!filters.point || cell.point === filters.point)
    && (!filters.outcome || cell.outcome === filters.outcome) && (!state.picked.size || state.picked.has(cell.method));
}

function compareBy(value, down) {
  return (left, right) => {
    const a = value(left), b = value(right);
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const order = typeof a === "number" ? a - b : a.localeCompare(b);
    return down ? -order : order;
  };
}

function fillTable() {
  const columns = COLUMNS.filter(([, value], place) => place < 2 || data.cells.some((cell) => value(cell) !== undefined));
  const active = columns.find((column) => column === COLUMNS[sorting.column]) ?? columns[0];
  // Under equal values, and where there is none, ranked cells come first.
  const rows = data.cells.filter(kept).sort((a, b) => (b.ranked - a.ranked) || compareBy(active[1], sorting.down)(a, b));
  const heads = columns.map((column) => {
    const button = element("button", {type: "button", textContent: titleOf(column)});
    const head = element("th", {scope: "col", className: column[2] === null ? "" : "number"}, button);
    if (column === active) head.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
    button.addEventListener("click", () => {
      const place = COLUMNS.indexOf(column);
      sorting.down = sorting.column === place ? !sorting.down : column[3] === "descending";
      sorting.column = place;
      fillTable();
      document.querySelectorAll("#cell-table th button")[columns.indexOf(column)].focus();
    });
    return head;
  });
  heads.push(element("th", {scope: "col", textContent: "Remarks"}));
  const shown = sorting.all ? rows : rows.slice(0, FIRST_ROWS);
  const lines = shown.map((cell) => {
    const open = element("button", {type: "button", className: "open", textContent: names.get(cell.method)});
    open.addEventListener("click", () => showCell(cell));
    const fields = columns.slice(1).map(([, value, write]) => {
      const number = value(cell);
      // How a cell failed stands where its number would: on a phone the remarks are out of sight.
      if (number === undefined && value === COLUMNS[2][1] && cell.outcome !== "ok") return element("td", {className: "number"}, outcomeOf(cell));
      return element("td", {className: "number", textContent: number === undefined ? "–" : write(number, cell)});
    });
    return element("tr", {}, element("td", {className: "method"}, sign(cell.method), " ", open), ...fields, element("td", {}, ...remarksOf(cell, columns.some(([, value]) => value === COLUMNS[2][1]))));
  });
  document.getElementById("cell-table").replaceChildren(element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines));
  const note = document.getElementById("shown");
  note.replaceChildren(`${shown.length} of ${data.cells.length} cells. A method's name opens its cell. `);
  if (state.picked.size) {
    const all = element("button", {type: "button", textContent: "Show those that are not highlighted too"});
    all.addEventListener("click", () => { state.picked.clear(); highlight(); fillTable(); });
    note.append("Highlighted methods only. ", all, " ");
  }
  if (shown.length < rows.length) {
    const more = element("button", {type: "button", textContent: `Show all ${rows.length}`});
    more.addEventListener("click", () => { sorting.all = true; fillTable(); });
    note.append(more);
  }
}

const EXPLAINED = {"few batches": "Fewer than five batches were measured, which give no interval.", uneven: "The batches differ so much that the interval is too wide to compare by.",
  unsteady: "Latencies rose or fell while this was measured.", "not representative": "The measured batches do not represent the workload, so no interval is given.",
  throttled: "The GPU's clocks were held back by heat or power.", speculative: "Its speed depends on how many guessed tokens are right, and that on the text.", sequential: "This engine works through a batch one prompt after the other.",
  saturated: "More requests were offered than the server could take; its latencies are of no lasting state.", "no output": "No tokens came, so there is no rate."};

const outcomeOf = (cell) => badge(state.outcome(cell.outcome), cell.cause ?? "no cause was given", true);

// `told`: how it ended stands elsewhere.
function remarksOf(cell, told = false) {
  const found = (cell.remarks ?? []).map((word) => badge(word, EXPLAINED[word] ?? "Others used the CPUs while this was measured."));
  if (cell.outcome !== "ok" && !(told && !cell.throughput_tok_s)) found.unshift(outcomeOf(cell));
  if (cell.scripted) found.unshift(badge("scripted", "The suite's own scripted engine: it is never ranked."));
  else if (cell.unranked) found.unshift(badge("not ranked", cell.unranked, true));
  return found;
}

// --- one cell ---

function showCell(cell) {
  const home = document.getElementById("cell");
  const copy = element("button", {type: "button", textContent: "Copy"});
  const command = element("pre", {textContent: cell.command});
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(cell.command);
    } catch {
      const range = document.createRange();
      range.selectNodeContents(command);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    copy.textContent = "Copied";
  });
  const close = element("button", {type: "button", textContent: "Close"});
  close.addEventListener("click", () => { home.hidden = true; });
  const facts = COLUMNS.slice(1).map((column) => [titleOf(column), column[1](cell), column[2]]).filter(([, number]) => number !== undefined)
    .flatMap(([title, number, write]) => [element("dt", {textContent: title}), element("dd", {textContent: write(number, cell)})]);
  const said = remarksOf(cell);
  if (said.length) facts.push(element("dt", {textContent: "Remarks"}), element("dd", {}, ...said));
  if (cell.cause) facts.push(element("dt", {textContent: "Cause"}), element("dd", {textContent: cell.cause}));
  if (cell.roof?.bound) facts.push(element("dt", {textContent: "Held back by"}), element("dd", {textContent: `${cell.roof.bound}${cell.roof.mbu ? `, ${SAYS(cell.roof.mbu * 100)} % of the measured bandwidth` : ""}`}));
  home.replaceChildren(element("h3", {}, sign(cell.method), ` ${names.get(cell.method)}, ${words.get(cell.point)}`), element("dl", {}, ...facts),
    element("div", {className: "series"}, ...seriesOf(cell)), element("p", {className: "note", textContent: `Measure this cell again, in a clone of the repository${data.commit ? ` at commit ${data.commit}` : ""} (what is missing is built first):`}), command, copy, " ", close);
  home.hidden = false;
  home.scrollIntoView({block: "nearest"});
  for (const plot of home.querySelectorAll(".plot")) plot.drawn();
}

const SERIES = {ttft_s: ["Time to first token, from the least to the most", "ms"], tpot_s: ["Time per output token, from the least to the most", "ms"],
  power_w: ["Power of the device", "W"], memory_bytes: [() => (data.on_gpu ? "GPU memory in use" : "Resident memory"), "GiB"], utilisation_percent: ["Time in which a kernel ran", "%"]};

function seriesOf(cell) {
  return Object.entries(cell.series ?? {}).map(([name, {first_x, step_x, values}]) => {
    const title = titleOf(SERIES[name]), unit = SERIES[name][1], share = name === "ttft_s" || name === "tpot_s";
    const plot = element("div", {className: "plot"});
    const rows = values.map((value, k) => ({x: (first_x + k * step_x) * (share ? 100 : 1), value}));
    plot.drawn = () => window.vegaEmbed(plot, {config: CONFIG, width: "container", height: 130, autosize: {type: "fit-x", contains: "padding"},
      description: title, data: {values: rows}, mark: {type: "line", color: colours.get(byKey.get(cell.method).image), tooltip: true, point: share},
      encoding: {x: quantitative("x", share ? (cell.batch_size ? "share of prompts (%)" : "share of requests (%)") : "seconds since the engine was begun"),
        y: quantitative("value", unit, {tickCount: 4}, {zero: !share && name !== "memory_bytes"})}}, {actions: false, renderer: "svg", logLevel: 1});
    return element("figure", {className: "chart"}, element("h4", {textContent: title}), plot);
  });
}

// --- tables of the document, tooltips, theme ---

function sortableTables() {
  for (const table of document.querySelectorAll("table.sortable")) {
    table.querySelectorAll("th").forEach((head, column) => {
      const button = element("button", {type: "button", textContent: head.textContent});
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const best = /throughput|token\/s|goodput|attainment/i.test(head.textContent) ? "descending" : "ascending";
        const next = before === null ? best : before === "ascending" ? "descending" : "ascending";
        table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", next);
        const value = (row) => {
          const field = row.cells[column];
          return "number" in field.dataset ? Number(field.dataset.number) : head.classList.contains("number") ? undefined : field.textContent;
        };
        table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compareBy(value, next === "descending")));
      });
    });
  }
}

function tooltips() {
  const tip = document.getElementById("tip");
  const show = (event) => {
    const on = event.target.closest?.("[data-tip]");
    if (!on) return;
    tip.textContent = on.dataset.tip;
    tip.hidden = false;
    const place = on.getBoundingClientRect(), size = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(place.left, innerWidth - size.width - 4))}px`;
    tip.style.top = `${place.bottom + size.height + 8 > innerHeight ? place.top - size.height - 6 : place.bottom + 6}px`;
  };
  const hide = () => { tip.hidden = true; };
  document.addEventListener("mouseover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("mouseout", hide);
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
}

function theme() {
  const button = document.getElementById("theme"), root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const say = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-pressed", String(dark())); };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; say(); });
  say();
}

// Shows a part as if it were alone on the page.
function show(part) {
  take(part);
  radios(document.getElementById("parts"), parts.map((one) => ({word: one, words: one.part})), part, show);
  for (const label of document.querySelectorAll("[data-if]")) {
    label.hidden = label.dataset.if === "quality" ? !data.quality : !data.cells.some((cell) => cell.batch_size === undefined);
  }
  document.getElementById("cell").hidden = true;
  for (const name of Object.keys(filters)) delete filters[name];
  Object.assign(sorting, {column: 2, down: true, all: false});
  if (!data.cells.length && parts.length === 1) return;
  placeFigures();
  fillPoints();
  fillLegend();
  fillFilters();
  fillTable();
  answer();
  highlight();
}

function begin() {
  const form = document.getElementById("chooser");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { answer(); fillTable(); });
  if (matchMedia("(max-width: 640px)").matches) document.querySelector("#contents details").open = false;
  theme();
  tooltips();
  sortableTables();
  show(parts[0]);
}

begin();
