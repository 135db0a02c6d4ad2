// Every figure of the page: which rows it shows of the state at hand, and its Vega-Lite specification. Data stand in the
// rows alone, never in a specification's expressions. Colours, shapes and dashes come with the rows, the same for a
// method in all figures. `strong` is a parameter of each: the methods that are not faded.

const GIB = 2 ** 30;
const CONFIG = {
  background: "transparent", font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif",
  view: {stroke: null}, axis: {labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 310,
    titleLimit: 0, gridOpacity: 1},
  text: {fontSize: 11}, legend: {labelFontSize: 12, titleFontSize: 12},
};
const PLAIN = "abs(datum.value) >= 1 || datum.value == 0 ? format(datum.value, ',.6~r') : format(datum.value, '.3~r')";
const FADED = 0.18;
const LONGEST_BESIDE = 45; // characters
const OPACITY = {condition: {test: "indexof(strong, datum.method) >= 0", value: 1}, value: FADED};
// Bars do not tangle: only a choice fades them.
const BAR_OPACITY = {condition: {test: "!length(picked) || indexof(picked, datum.method) >= 0", value: 1}, value: FADED};
const COLOUR = {field: "colour", type: "nominal", scale: null};
const SHAPE = {field: "shape", type: "nominal", scale: null};
const CROSS = "M-1,-1L1,1M-1,1L1,-1";

function tips(...fields) {
  return [{field: "label", title: "method"}, ...fields.map(([field, title]) => ({field, title, type: "nominal"}))];
}

function quantitative(field, title, more = {}, scale = {}) {
  return {field, type: "quantitative", title, scale, axis: {labelExpr: PLAIN, tickCount: 6, ...more}};
}

// Few values of one size on a line from zero; many sizes on a logarithm.
function spread(rows, ...fields) {
  const values = rows.flatMap((row) => fields.map((field) => row[field])).filter((value) => value > 0);
  const low = Math.min(...values), high = Math.max(...values);
  return values.length && high / low > 20 ? {type: "log", nice: false} : {type: "linear", zero: true};
}

// 1, 2 and 5 times the powers of ten; of many powers these alone.
function logTicks(rows, ...fields) {
  const values = rows.flatMap((row) => fields.map((field) => row[field])).filter((value) => value > 0);
  const first = Math.floor(Math.log10(Math.min(...values))), last = Math.ceil(Math.log10(Math.max(...values)));
  const steps = last - first <= 3 ? [1, 2, 5] : [1];
  const found = [];
  for (let power = first; power <= last; power += 1) for (const step of steps) found.push(step * 10 ** power);
  return found;
}

// An axis by what it shows: from zero, or on a logarithm with ticks that are read easily.
function axisFor(rows, field, title, ...others) {
  const scale = spread(rows, field, ...others);
  return quantitative(field, title, scale.type === "log" ? {values: logTicks(rows, field, ...others)} : {}, scale);
}

// Names stand above their bars on a phone, where bars need the width, and where they are too long to stand whole beside
// them, as those of several runs.
function namesAbove(rows) {
  return innerWidth < 640 || rows.some((row) => row.name.length > LONGEST_BESIDE);
}

// Bars, sorted, the best first.
function bars(id, title, unit, value, ends, best, short) {
  return {
    id, title, sorted: true,
    rows: (state) => state.at(state.point).filter((cell) => !cell.scripted && cell.unranked === undefined)
      .map((cell) => ({...state.look(cell), value: value(cell), ...ends(cell), cell}))
      .filter((row) => row.value > 0)
      .map(({cell, ...row}) => ({...row, says: said(cell, row.value) + " " + (short ?? unit)}))
      .sort((a, b) => (best === "highest" ? b.value - a.value : a.value - b.value)),
    caption: (state) => state.pointWords() + (best === "highest" ? ", highest first" : ", lowest first"),
    spec: (rows) => {
      const narrow = namesAbove(rows);
      const y = {field: "name", type: "nominal", sort: null, title: null, axis: narrow ? null : {ticks: false, domain: false, labelPadding: 6}};
      const layer = [
        {mark: narrow ? {type: "bar", height: 9, yOffset: 7} : {type: "bar", height: {band: 0.72}},
          encoding: {x: quantitative("value", unit, {}, {zero: true}), color: COLOUR, opacity: BAR_OPACITY,
            tooltip: tips(["says", "value"], ["interval", "95 % interval"], ["remarks", "remarks"])}},
        {mark: {type: "text", align: "left", baseline: "middle", dx: 5, yOffset: narrow ? 7 : 0},
          encoding: {x: {field: "edge", type: "quantitative"}, text: {field: "says"}, opacity: BAR_OPACITY}},
      ];
      if (rows.some((row) => row.low !== undefined)) {
        layer.splice(1, 0, {transform: [{filter: "isValid(datum.low)"}], mark: {type: "rule", strokeWidth: 1.5, color: "#8b949e", yOffset: narrow ? 7 : 0},
          encoding: {x: {field: "low", type: "quantitative"}, x2: {field: "high"}, opacity: BAR_OPACITY}});
      }
      if (narrow) layer.push({mark: {type: "text", align: "left", baseline: "middle", dy: -6}, encoding: {x: {datum: 0}, text: {field: "name"}, opacity: BAR_OPACITY}});
      const edge = Math.max(...rows.map((row) => Math.max(row.value, row.high ?? 0)));
      for (const row of rows) row.edge = Math.max(row.value, row.high ?? 0);
      layer[0].encoding.x.scale = {zero: true, domain: [0, edge * (innerWidth < 1000 ? 1.4 : 1.22)], nice: false};
      return {height: rows.length * (narrow ? 32 : rows.length > 12 ? 19 : 25), encoding: {y}, layer};
    },
  };
}

// A value by batch size or by request rate: a line for each method, its interval as a band, and where it failed.
function lines(id, title, unit, xTitle, xOf, value, ends) {
  return {
    id, title,
    rows: (state) => {
      const found = [];
      for (const method of state.methods()) {
        let last, stretch = 0;
        const cells = state.of(method.key).filter((cell) => xOf(cell) !== undefined).sort((a, b) => xOf(a) - xOf(b));
        for (const cell of cells) {
          const number = cell.unranked === undefined ? value(cell) : undefined;
          const row = {...state.look(cell), x: xOf(cell)};
          if (number > 0) {
            last = number;
            const made = {...row, value: number, ...ends(cell), says: said(cell, number) + " " + unit};
            if (!(made.low > 0)) stretch += 1;
            found.push({...made, stretch: `${method.key}/${stretch}`});
          } else if (cell.outcome !== "ok") {
            found.push({...row, failed: true, value: last, says: state.outcome(cell.outcome), cause: cell.cause ?? ""});
          }
        }
      }
      if (!found.some((row) => row.value > 0)) return [];
      // A band reaches over neighbours that have an interval each; of one alone it is a line.
      for (const rows of grouped(found.filter((row) => row.low > 0), (row) => row.stretch).values()) if (rows.length === 1) rows[0].alone = true;
      // Where a method never had a number, its crosses stand below all that was measured.
      const told = found.flatMap(({value: number, low, high}) => [number, low, high]).filter((number) => number > 0);
      const foot = spread(found, "value", "low", "high").type === "log" ? Math.min(...told) / 1.6 : 0;
      return found.map((row) => (row.value === undefined ? {...row, value: foot, never: true} : row));
    },
    caption: (_, rows) => [
      rows.some((row) => row.low !== undefined) ? "bands: 95 % intervals" : "",
      rows.some((row) => row.failed && !row.never) ? "× no number there, at the height of the method's last one" : "",
      rows.some((row) => row.never) ? "× at the foot: no number at all" : "",
    ].filter(Boolean).join("; "),
    spec: (rows) => {
      const xs = [...new Set(rows.map((row) => row.x))].sort((a, b) => a - b);
      const x = {field: "x", type: "quantitative", title: xTitle,
        scale: xs.length > 1 && xs.at(-1) / xs[0] > 4 ? {type: "log", base: 2, domain: [xs[0] / 1.25, xs.at(-1) * 1.25], nice: false}
          : {domain: [Math.max(0, xs[0] - 1), xs.at(-1) + 1], nice: false},
        axis: {values: xs, format: "~r", labelOverlap: true}};
      const y = axisFor(rows, "value", unit, "low", "high");
      const detail = {field: "method", type: "nominal"};
      const good = [{filter: "!datum.failed"}];
      const band = {condition: {test: "indexof(strong, datum.method) >= 0", value: 0.18}, value: 0.03};
      const layer = [
        {transform: [{filter: "isValid(datum.low) && datum.low > 0"}], mark: {type: "area"},
          encoding: {x, y: {...y, field: "low"}, y2: {field: "high"}, color: COLOUR, detail: {field: "stretch", type: "nominal"}, opacity: band}},
        {transform: [{filter: "datum.alone"}], mark: {type: "rule", strokeWidth: 3},
          encoding: {x, y: {...y, field: "low"}, y2: {field: "high"}, color: COLOUR,
            opacity: {condition: {test: "indexof(strong, datum.method) >= 0", value: 0.45}, value: 0.06}}},
        {transform: good, mark: {type: "line", strokeWidth: 2},
          encoding: {x, y, color: COLOUR, detail, opacity: OPACITY, strokeDash: {field: "dash", type: "nominal", scale: null}, tooltip: tips()}},
        {transform: good, mark: {type: "point", filled: true, size: 70},
          encoding: {x, y, color: COLOUR, shape: SHAPE, opacity: OPACITY,
            tooltip: tips(["point", "at"], ["says", "value"], ["interval", "95 % interval"], ["remarks", "remarks"])}},
        {transform: [{filter: "datum.failed"}], mark: {type: "point", shape: CROSS, size: 45, strokeWidth: 2, filled: false},
          encoding: {x, y, color: COLOUR, opacity: OPACITY, tooltip: tips(["point", "at"], ["says", "outcome"], ["cause", "cause"])}},
      ];
      return {height: 300, layer};
    },
  };
}

const MOST_NAMED = 4; // methods whose points have names beside them

// Two values against each other, a line through each method's points.
function scatter(id, title, xTitle, yTitle, xOf, yOf, more = {}) {
  return {
    id, title,
    rows: (state) => state.cells().filter((cell) => cell.unranked === undefined && (more.only?.(cell, state) ?? true))
      .map((cell) => ({...state.look(cell), x: xOf(cell), y: yOf(cell), place: state.place(cell.point), saturated: (cell.remarks ?? []).includes("saturated")}))
      .filter((row) => row.x > 0 && row.y > 0)
      .map((row) => ({...row, xSays: SAYS(row.x), ySays: SAYS(row.y)})),
    caption: (state, rows) => [more.caption ?? "",
      more.joined && state.methods().length > MOST_NAMED ? `highlight ${MOST_NAMED} methods or fewer to see what each point is` : "", rows.some((row) => row.saturated) ? "hollow: saturated" : ""].filter(Boolean).join("; "),
    spec: (rows, state) => {
      // Powers of ten have names; a tenth is 0.1, not "100m".
      const power = "abs(log(datum.value) / LN10 - round(log(datum.value) / LN10)) < 1e-6";
      const log = {labelExpr: `${power} ? format(datum.value, datum.value < 1 ? '~g' : '~s') : ''`, tickCount: 5};
      const x = more.log ? quantitative("x", xTitle, log, {type: "log", nice: true}) : axisFor(rows, "x", xTitle);
      const y = more.log ? quantitative("y", yTitle, log, {type: "log", nice: true}) : axisFor(rows, "y", yTitle);
      const tooltip = tips(["point", "at"], ["xSays", xTitle], ["ySays", yTitle], ["remarks", "remarks"]);
      const layer = [...(more.layers?.(state, x, y) ?? [])];
      if (more.joined) {
        layer.push({transform: [{filter: "!datum.saturated"}], mark: {type: "line", strokeWidth: 1.5},
          encoding: {x, y, color: COLOUR, detail: {field: "line"}, order: {field: "place", type: "quantitative"}, opacity: OPACITY, tooltip: tips()}});
        // Names of points beside few methods only: of many they would cover each other.
        const named = {condition: {test: `length(strong) <= ${MOST_NAMED} && indexof(strong, datum.method) >= 0`, value: 1}, value: 0};
        // Names of rates stand below, of all others above: lines of the two lie near each other.
        for (const [test, dy] of [["!= 'r'", -9], ["== 'r'", 13]]) {
          layer.push({transform: [{filter: `slice(datum.pointWord, 0, 1) ${test}`}], mark: {type: "text", dy, fontSize: 10},
            encoding: {x, y, text: {field: "pointWord"}, opacity: named}});
        }
      }
      layer.push({transform: [{filter: "!datum.saturated"}], mark: {type: "point", filled: true, size: 70},
        encoding: {x, y, color: COLOUR, shape: SHAPE, opacity: OPACITY, tooltip}});
      layer.push({transform: [{filter: "datum.saturated"}], mark: {type: "point", filled: false, size: 60, strokeWidth: 2},
        encoding: {x, y, color: COLOUR, shape: SHAPE, opacity: OPACITY, tooltip}});
      return {height: 300, layer};
    },
  };
}

// Peak bandwidth and matrix rates as lines over the intensities at hand.
function roofs(state, x, y) {
  const values = [];
  for (const peak of state.data.peaks.slice(0, 1)) {
    const used = new Set(state.data.cells.map((cell) => cell.roof?.dtype).filter(Boolean));
    const rates = Object.entries(peak.matrix_flop_s).filter(([dtype]) => used.has(dtype));
    if (!rates.length || !peak.bandwidth_bytes_s) continue;
    const highest = Math.max(...rates.map(([, rate]) => rate));
    const ends = [0.2, highest / peak.bandwidth_bytes_s];
    for (const intensity of ends) values.push({x: intensity, y: intensity * peak.bandwidth_bytes_s, roof: "bandwidth"});
    // Rates that lie so near that their names would cover each other are one line.
    const lines = [];
    for (const [dtype, rate] of rates.sort((one, other) => one[1] - other[1])) {
      if (lines.length && rate / lines.at(-1)[1] < 1.3) lines.at(-1)[0] += `, ${dtype}`;
      else lines.push([dtype, rate]);
    }
    for (const [dtype, rate] of lines) {
      values.push({x: rate / peak.bandwidth_bytes_s, y: rate, roof: dtype}, {x: 4 * ends[1], y: rate, roof: dtype});
    }
  }
  const data = {values};
  return [
    {data, mark: {type: "line", strokeWidth: 1.2, color: "#8b949e"}, encoding: {x, y, detail: {field: "roof"}}},
    {data, transform: [{aggregate: [{op: "max", field: "x", as: "x"}, {op: "max", field: "y", as: "y"}], groupby: ["roof"]}, {filter: "datum.roof != 'bandwidth'"}],
      mark: {type: "text", align: "right", dy: -6, fontSize: 10}, encoding: {x, y, text: {field: "roof"}}},
  ];
}

const PARTS = {"weights": "#2a78c2", "KV cache": "#d55e00", "activations": "#00916a", "CUDA graphs": "#c2629c", "context": "#a87f00", "unexplained": "#80868f"};

const ANATOMY = {
  id: "anatomy", title: "What the memory went into",
  rows: (state) => state.at(state.point).filter((cell) => cell.memory_parts)
    .flatMap((cell) => Object.entries(cell.memory_parts).map(([part, bytes]) => ({...state.look(cell), part, value: bytes / GIB,
      says: SAYS(bytes / GIB) + " GiB", order: Object.keys(PARTS).indexOf(part)}))),
  caption: (state) => state.pointWords() + "; weights, cache and activations follow from the architecture; left of zero: less was measured than predicted",
  spec: (rows) => {
    const narrow = namesAbove(rows);
    const stacked = {
      mark: narrow ? {type: "bar", height: 9, yOffset: 7} : {type: "bar", height: {band: 0.72}},
      encoding: {
        x: quantitative("value", "GiB", {}, {zero: true}), order: {field: "order"}, opacity: BAR_OPACITY,
        color: {field: "part", type: "nominal", title: null, sort: Object.keys(PARTS), scale: {domain: Object.keys(PARTS), range: Object.values(PARTS)}, legend: {orient: "top", columns: innerWidth < 640 ? 2 : 3}},
        tooltip: tips(["part", "part"], ["says", "memory"]),
      },
    };
    const names = {transform: [{aggregate: [{op: "count", as: "parts"}], groupby: ["name", "method"]}],
      mark: {type: "text", align: "left", baseline: "middle", dy: -6}, encoding: {x: {datum: 0}, text: {field: "name"}, opacity: BAR_OPACITY}};
    return {
      height: (narrow ? 32 : 22) * new Set(rows.map((row) => row.name)).size,
      encoding: {y: {field: "name", type: "nominal", sort: null, title: null, axis: narrow ? null : {ticks: false, domain: false}}},
      layer: narrow ? [stacked, names] : [stacked],
    };
  },
};

const interval = (name, factor = 1) => (cell) => {
  const [, low, high] = cell[name] ?? [];
  return low === undefined || low === null ? {interval: "none"} : {low: low * factor, high: high * factor, interval: `${SAYS(low * factor)} to ${SAYS(high * factor)}`};
};
const NONE = () => ({});

// Numbers as tables write them (bench_core/report/format.py; a test holds both to each other).
function significant(value, digits) {
  if (value === 0) return "0";
  const [digit, power] = value.toExponential(digits - 1).split("e");
  if (Math.abs(value) < 1e-4 && Number(power) < -4) return `${digit}e-${String(-Number(power)).padStart(2, "0")}`;
  return value.toFixed(Math.max(digits - 1 - Number(power), 0));
}

const SAYS = (value) => significant(value, 4);

function within(value, low, high) {
  if (low === undefined || low === null || high === undefined || high === null) return SAYS(value);
  const below = value - low, above = high - value;
  if (Math.abs(above - below) > 0.1 * Math.max(above, below)) return `${SAYS(value)} (${SAYS(low)}\u2013${SAYS(high)})`;
  const text = SAYS(value), half = (high - low) / 2;
  const width = text.includes("e") ? significant(half, 1) : half.toFixed((text.split(".")[1] ?? "").length);
  return `${text} ± ${Number(width) > 0 || half === 0 ? width : significant(half, 1)}`;
}

// A cell's own number in the report's words, which were rounded once.
const said = (cell, value) => (value === cell.throughput_tok_s?.[0] ? cell.says.split(" ")[0] : SAYS(value));

const first = (name, factor = 1) => (cell) => (cell[name] === undefined ? undefined : cell[name][0] * factor);

const FASTEST = bars("fastest", "Throughput, fastest first", "token/s", first("throughput_tok_s"), interval("throughput_tok_s"), "highest");

function figures(data) {
  const memory = data.on_gpu ? "GPU memory in use" : "Resident memory of the engine";
  const offline = (cell) => cell.batch_size, rate = (cell) => cell.request_rate;
  const bytes = (cell) => (cell.memory_bytes === undefined ? undefined : cell.memory_bytes / GIB);
  return [
    lines("throughput", "Throughput by batch size", "token/s", "batch size (prompts in one call of the engine)", offline, first("throughput_tok_s"), interval("throughput_tok_s")),
    lines("memory", `${memory} by batch size`, "GiB", "batch size (prompts in one call of the engine)", offline, bytes, NONE),
    scatter("frontier", `Throughput against each user's speed, under load`, "token/s for each user (1 / median TPOT)", data.on_gpu ? "token/s of the GPU" : "token/s of the host",
      (cell) => (cell.tpot_s ? 1 / cell.tpot_s[0] : undefined), first("throughput_tok_s"),
      {joined: true, only: (cell) => cell.batch_size === undefined, caption: "c: concurrency; r: requests/s"}),
    lines("ttft", "Time to first token by request rate, median", "ms", "requests/s", rate, first("ttft_s", 1e3), interval("ttft_s", 1e3)),
    lines("ttft99", "Time to first token by request rate, 99th percentile", "ms", "requests/s", rate, first("ttft_p99_s", 1e3), interval("ttft_p99_s", 1e3)),
    lines("concurrency", "Throughput by concurrency", "token/s", "concurrency (requests at once)", (cell) => cell.concurrency, first("throughput_tok_s"), interval("throughput_tok_s")),
    scatter("tradeoff", "Throughput against each prompt's speed, closed batches", "token/s for each prompt (1 / TPOT)", "token/s of the batch",
      (cell) => (cell.tpot_s ? 1 / cell.tpot_s[0] : undefined), first("throughput_tok_s"),
      {joined: true, only: (cell) => cell.batch_size !== undefined, caption: "b: batch size"}),
    scatter("roofline", "Roofline: decode steps under the device's measured peaks", "FLOP for each byte read", "FLOP/s",
      (cell) => cell.roof?.intensity_flop_byte, (cell) => cell.roof?.flop_s, {log: true, layers: roofs, caption: "grey: peak bandwidth and matrix rates, measured on this device"}),
    ANATOMY,
    bars("energy", "Energy", "J for 1000 output tokens", (cell) => (cell.joules_per_token ?? 0) * 1000, NONE, "lowest", "J"),
    bars("first-token", "Time to first token", "ms", first("ttft_s", 1e3), interval("ttft_s", 1e3), "lowest"),
    scatter("quality", "Quality against speed", "perplexity of the fixed text", "token/s", (cell) => cell.perplexity, first("throughput_tok_s"),
      {only: (cell, state) => cell.point === state.point && state.hasQuality, caption: "left is better; a reference has its own model's perplexity"}),
  ];
}
