"""What is said of several devices at the head of a report, and of the mark beside a throughput."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bench_core.contract.records.placement import Placement
from bench_core.report.format import quantity
from bench_core.runs.beside import Change, sampled_of, together
from bench_core.runs.view import Row, RunView

BESIDE = "beside"


def side_by_side(view: RunView) -> str | None:
    """One line: how many devices, what neighbours cost, how far the devices differ; ``None`` for a run on one."""
    places = workers_of(view)
    if len(places) < 2:
        return None
    found = [f"{quantity(len(places), 'device')}, one cell each"]
    known = [(one.neighbours, one.told) for one in sampled_of(view) if one.neighbours is not None]
    told = [(neighbours, change) for neighbours, change in known if change is not None]
    if told:
        others = f"beside {sum(neighbours for neighbours, _ in told) / len(told):.1f} others"
        found.append(f"{others}: {together([change for _, change in told]).words} ({quantity(len(told), 'cell')})")
    elif known:
        found.append("no cell of the sample had neighbours for half of its time, so what these cost is not told")
    spread = spread_of(control_rates(view))
    if spread is not None:
        found.append(f"the control cell differs by {100 * spread:.1f} % at most from device to device")
    return "; ".join(found)


def warning(view: RunView) -> str:
    """One line where neighbours cost some methods what matters; empty elsewhere."""
    slowed = {row.label: row.beside_others for row in view.rows if row.beside_others}
    if not slowed:
        return ""
    told = ", ".join(f"{label} {words}" for label, words in slowed.items())
    return f"neighbours on this host changed throughputs ({told}); these cells are marked {BESIDE}"


def beside_note(rows: Sequence[Row]) -> Iterator[str]:
    """The legend of the mark."""
    found = {row.planned.label: row.beside_others for row in rows if row.beside_others}
    if found:
        told = "; ".join(f"{label}: {words}" for label, words in found.items())
        yield f"{BESIDE}: other devices of the host worked meanwhile, and that changed it ({told}); see Side by side."


def workers_of(view: RunView) -> dict[str, Placement]:
    """The devices of all visits on which cells ran side by side, by name."""
    return {place.worker: place for visit in view.record.visits for place in visit.workers}


def control_rates(view: RunView) -> dict[str, list[float]]:
    """Device to the throughputs of the control cell there, tokens/s: of cells that several devices measured."""
    found: dict[str, list[float]] = {}
    for rows in view.cells:
        if rows[-1].planned.repeat <= view.record.repeats:  # no control
            continue
        for row in rows:
            if row.rate is not None and row.spec is not None and row.spec.placement is not None:
                found.setdefault(row.spec.placement.worker, []).append(row.rate.throughput_tok_s)
    return found


def spread_of(rates: dict[str, list[float]]) -> float | None:
    """The largest difference between devices, as a share of the slowest; ``None`` for fewer than two."""
    means = [sum(values) / len(values) for values in rates.values()]
    return max(means) / min(means) - 1 if len(means) > 1 and min(means) > 0 else None


def change_words(change: Change | None) -> str | None:
    """For a table."""
    return None if change is None else change.words


def cpu_words(cpus: Iterable[int]) -> str:
    """``0-3,8``."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
