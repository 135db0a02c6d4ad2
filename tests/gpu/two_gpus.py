"""What two GPUs of one host are worth, read from runs that tests/gpu/acceptance.sh has made, against the targets.

    PYTHONPATH=. python tests/gpu/two_gpus.py pool ONE BOTH        # eight cells on one GPU, and on both side by side
    PYTHONPATH=. python tests/gpu/two_gpus.py pair ONE BOTH        # one model on one GPU, and split over both
    PYTHONPATH=. python tests/gpu/two_gpus.py serving SPLIT EACH   # one server on both GPUs, and one on each

The exit code is 1 where a target is missed, or a number is missing.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from bench_core.report.cell import Cell
from bench_core.report.fleet.words import control_rates, side_by_side, spread_of
from bench_core.runs.beside import sampled_of
from bench_core.runs.load import load_run
from bench_core.runs.view import Row, RunView, ServedRow

HALF_WITHIN = 0.10
LEAST_PARITY = 0.98
_LEAST_SHARE_OF_ONE = 0.9  # of the weights that one GPU holds: the sum over both is no less


class Targets:
    """Says each number, and remembers which missed its target."""

    def __init__(self) -> None:
        self.missed = 0

    def say(self, words: str, *, good: bool | None = None) -> None:
        """``good``: whether it meets its target; ``None`` where it has none."""
        self.missed += good is False
        sys.stdout.write(f"{'' if good is None else 'PASS  ' if good else 'MISSED  '}{words}\n")


def span_s(view: RunView) -> float:
    """From the first cell's beginning to the last one's end on each device, the longest; without further measurements
    of the control cell and the sample that is measured again alone."""
    ends: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in view.rows:
        if row.alive_s is not None and row.spec is not None and row.planned.repeat <= view.record.repeats:
            ends["+".join(row.spec.cards)].append(row.alive_s)
    return max(max(end for _, end in spans) - min(begin for begin, _ in spans) for spans in ends.values())


def pool(targets: Targets, one: RunView, both: RunView) -> None:
    """Eight cells in half the time."""
    for view in (one, both):
        bad = [row.planned.cell for row in view.grid if not row.measured]
        targets.say(f"{view.record.run_id}: {len(view.grid) - len(bad)} of {len(view.grid)} cells are ok", good=not bad)
    alone_s, together_s = span_s(one), span_s(both)
    share = together_s / (alone_s / 2)
    targets.say(
        f"one GPU {alone_s:.1f} s, both {together_s:.1f} s: {share:.3f} of half", good=share <= 1.0 + HALF_WITHIN
    )
    targets.say(side_by_side(both) or "the run was not on several devices", good=side_by_side(both) is not None)
    for found in sampled_of(both):
        told = found.told.words if found.told is not None else "not told"
        targets.say(f"{found.beside.planned.cell} beside others against alone: {told}")
    rates = control_rates(both)
    spread = spread_of(rates)
    told = ", ".join(f"{device[:12]} {values[0]:.1f}" for device, values in rates.items())
    targets.say(f"control cell (token/s): {told}; spread {spread}", good=spread is not None)


def pair(targets: Targets, one: RunView, both: RunView) -> None:
    """One model on one GPU and on two: parity with the engine, and sums."""
    for row in one.grid:
        _told(targets, one, row)
    for row in both.grid:
        _told(targets, both, row)
        _parity(targets, row)
    singles = {(row.planned.variant, row.planned.batch_size): row for row in one.grid}
    for row in both.grid:
        beside = singles.get((row.planned.variant, row.planned.batch_size))
        if beside is None or beside.result is None or row.result is None or row.rate is None or beside.rate is None:
            targets.say(f"{row.planned.cell}: nothing to compare", good=False)
            continue
        times = row.rate.throughput_tok_s / beside.rate.throughput_tok_s
        targets.say(f"{row.planned.cell}: {times:.3f} times one GPU, {times / row.planned.gpus:.3f} for each GPU")
        memory, before = row.result.metrics.device_memory, beside.result.metrics.device_memory
        peak = memory.peak_bytes if memory is not None else None
        loaded = before.after_load_bytes if before is not None else None
        targets.say(
            f"{row.planned.cell}: GPU memory is the sum over {row.planned.gpus} GPUs",
            good=peak is not None and loaded is not None and peak > _LEAST_SHARE_OF_ONE * loaded,
        )
        roofs = both.device_rates_of(row)
        alone = one.device_rates_of(beside)
        if roofs is None or alone is None or not roofs.bandwidth_bytes_s or not alone.bandwidth_bytes_s:
            targets.say(f"{row.planned.cell}: the GPUs were not measured", good=False)
        else:
            share = roofs.bandwidth_bytes_s / alone.bandwidth_bytes_s
            targets.say(f"{row.planned.cell}: bandwidth roof {share:.3f} times one GPU's", good=1.9 < share < 2.1)


def _told(targets: Targets, view: RunView, row: Row) -> None:
    cell = row.planned.cell
    if row.result is None or row.rate is None:
        targets.say(f"{cell}: {row.status}: {row.problem}", good=False)
        return
    metrics, roof = row.result.metrics, Cell(view, row).roofline
    memory, telemetry = metrics.device_memory, metrics.telemetry
    words = f"{cell}: {row.rate.throughput_tok_s:.1f} token/s"
    words += f", {(memory.peak_bytes or 0) / 2**30:.2f} GiB" if memory is not None else ""
    if telemetry is not None and telemetry.power_w is not None:
        words += f", {telemetry.power_w:.0f} W, {telemetry.joules_per_output_token or float('nan'):.4f} J/token"
    words += f", MBU {roof.mbu:.3f}" if roof is not None and roof.mbu is not None else ", no MBU"
    targets.say(words)


def _parity(targets: Targets, row: Row) -> None:
    parity = row.result.metrics.parity if row.result is not None else None
    if parity is None:
        targets.say(f"{row.planned.cell}: parity was not measured", good=False)
        return
    ratio = parity.median_ratio or parity.ratio
    targets.say(f"{row.planned.cell}: {ratio:.4f} of the engine called directly", good=ratio >= LEAST_PARITY)


def serving(targets: Targets, split: RunView, each: RunView) -> None:
    """One server on both GPUs, and servers of one GPU each, whose throughputs are added up."""
    for load, rows in _by_load(split.served).items():
        for row in rows:
            _served(targets, row)
        targets.say(f"{load}: one server on {split.gpus_per_cell} GPUs {_sum(rows):.1f} token/s")
    for load, rows in _by_load(each.served).items():
        for row in rows:
            _served(targets, row)
        cards = {card for row in rows if row.spec is not None for card in row.spec.cards}
        targets.say(
            f"{load} at each: {len(rows)} servers on {len(cards)} GPUs {_sum(rows):.1f} token/s together",
            good=len(rows) == len(cards) == 2,
        )


def _served(targets: Targets, row: ServedRow) -> None:
    if row.result is None:
        targets.say(f"{row.planned.cell}: {row.status}: {row.problem}", good=False)
        return
    ttft, tpot = row.result.metrics.ttft_s, row.result.metrics.tpot_s
    words = f"{row.planned.cell}: {row.result.metrics.output_throughput_tok_s.value:.1f} token/s"
    words += f", TTFT p50 {1e3 * ttft.p50.value:.1f} ms" if ttft is not None and ttft.p50 is not None else ""
    words += f", TPOT p50 {1e3 * tpot.p50.value:.2f} ms" if tpot is not None and tpot.p50 is not None else ""
    targets.say(words)


def _by_load(rows: Iterable[ServedRow]) -> dict[str, list[ServedRow]]:
    found: dict[str, list[ServedRow]] = defaultdict(list)
    for row in rows:
        found[row.load.words].append(row)
    return found


def _sum(rows: Iterable[ServedRow]) -> float:
    return sum(row.result.metrics.output_throughput_tok_s.value for row in rows if row.result is not None)


QUESTIONS: dict[str, Callable[[Targets, RunView, RunView], None]] = {"pool": pool, "pair": pair, "serving": serving}


def main(question: str, first: str, second: str) -> int:
    """Answers one question of two runs."""
    targets = Targets()
    QUESTIONS[question](targets, load_run(Path(first)), load_run(Path(second)))
    return int(targets.missed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
