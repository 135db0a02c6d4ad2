// The rule of bench_core/report/decide/choose.py, step by step, for the cells of one point; both are held to the same
// cases (tests/report/data/choices.json).

const NUMBERS = {
  memory: (cell) => exact(cell.memory_bytes), throughput_tok_s: (cell) => cell.throughput_tok_s, ttft_s: (cell) => cell.ttft_s,
  tpot_s: (cell) => cell.tpot_s, ttft_p99_s: (cell) => cell.ttft_p99_s, tpot_p99_s: (cell) => cell.tpot_p99_s,
  quality: (cell) => exact(cell.nll_increase === undefined ? undefined : Math.expm1(cell.nll_increase)),
};

function exact(value) {
  return value === undefined || value === null ? undefined : [value, null, null];
}

function judged(cell, wanted) {
  if (!cell.throughput_tok_s) return {reasons: [{key: "outcome"}], close: []};
  if (cell.unranked) return {reasons: [{key: "unranked"}], close: []};
  if ((cell.remarks ?? []).includes("saturated")) return {reasons: [{key: "saturated"}], close: []};
  const reasons = [], close = [];
  for (const [key, number] of Object.entries(NUMBERS)) {
    const limit = wanted[key];
    if (limit === undefined || limit === null) continue;
    const found = number(cell);
    if (!found) {
      reasons.push({key, value: null, limit, close: false});
      continue;
    }
    const [value, low, high] = found;
    const holds = known(low) && known(high) && low <= limit && limit <= high;
    if (key === "throughput_tok_s" ? value < limit : value > limit) reasons.push({key, value, limit, close: holds});
    else if (holds) close.push(key);
  }
  return {reasons, close};
}

function known(number) {
  return number !== undefined && number !== null;
}

// Whether two numbers with intervals are statistically tied: false where one has none.
function tied(one, other) {
  const [lower, higher] = one[0] <= other[0] ? [one, other] : [other, one];
  if (!known(lower[2]) || !known(higher[1])) return false;
  return higher[0] - lower[0] <= Math.hypot(lower[2] - lower[0], higher[0] - higher[1]);
}

// Step 5 and 6: fastest first; under load at a rate or by a trace, where all write what is asked for, soonest first.
function choose(cells, wanted) {
  const open = cells.length > 0 && !known(cells[0].batch_size) && !known(cells[0].concurrency);
  const found = cells.filter((cell) => !cell.scripted).map((cell) => ({cell, ...judged(cell, wanted)}));
  const order = (cell) => (open ? cell.ttft_s?.[0] ?? Infinity : -(cell.compared_tok_s ?? 0));
  const fits = found.filter(({reasons}) => !reasons.length)
    .map((line, place) => ({...line, place})).sort((a, b) => (order(a.cell) - order(b.cell)) || a.place - b.place);
  const number = (cell) => (open ? cell.ttft_s : cell.throughput_tok_s);
  const first = fits.length ? number(fits[0].cell) : undefined;
  return {
    by: open ? "ttft_s" : "throughput_tok_s",
    fits: fits.map(({cell, close}, place) => ({cell, close, tied: place > 0 && known(first) && known(number(cell)) && tied(first, number(cell))})),
    out: found.filter(({reasons}) => reasons.length),
  };
}
