// The rule of bench_core/report/decide/choose.py, step by step; both are tested on the same cases.

const HIGHEST = ["memory_bytes", "ttft_s", "tpot_s", "ttft_p99_s", "tpot_p99_s", "quality"];

function decisive(cell, name) {
  if (name === "quality") return cell.nll_increase === undefined ? undefined : Math.expm1(cell.nll_increase);
  const value = cell[name];
  return Array.isArray(value) ? value[0] : value;
}

function reasonsAgainst(cell, wanted) {
  if (cell.scripted) return [{key: "scripted"}];
  if (!cell.throughput_tok_s) return [{key: "outcome"}];
  if (cell.unranked) return [{key: "unranked"}];
  const found = [];
  for (const [key, limit] of Object.entries(wanted)) {
    const value = decisive(cell, key);
    const kept = value !== undefined && (HIGHEST.includes(key) ? value <= limit : value >= limit);
    if (!kept) found.push({key, value, limit});
  }
  return found;
}

function halfWidth(cell) {
  const [, low, high] = cell.throughput_tok_s;
  return low === null || low === undefined ? undefined : (high - low) / 2;
}

function tiedWith(one, other) {
  const a = halfWidth(one), b = halfWidth(other);
  return a !== undefined && b !== undefined && Math.abs(one.throughput_tok_s[0] - other.throughput_tok_s[0]) <= Math.hypot(a, b);
}

function choose(cells, wanted) {
  const judged = cells.map((cell) => ({cell, reasons: reasonsAgainst(cell, wanted)}));
  const fits = judged.filter(({reasons}) => !reasons.length).map(({cell}) => cell)
    .sort((a, b) => b.throughput_tok_s[0] - a.throughput_tok_s[0]);
  return {
    fits: fits.map((cell) => ({cell, tied: cell === fits[0] || tiedWith(fits[0], cell)})),
    out: judged.filter(({reasons}) => reasons.length),
  };
}
