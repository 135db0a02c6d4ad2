"""The suite's own error on this machine, from the scripted cells of every visit, in words."""

from __future__ import annotations

from collections.abc import Callable

from bench_core.contract.measures.cpu_use import taken_by_others
from bench_core.contract.measures.harness_error import Gap, bounds
from bench_core.report.explain.busy_host import most_taken
from bench_core.report.format import GIB, gib, milliseconds, percent, quantity, rate, seconds, significant
from bench_core.runs.view import RunView

# Number of a gap: its name in tables, and how it is written.
_WORDS: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "ttft_s": ("TTFT", "s", seconds),
    "tpot_s": ("TPOT", "ms", milliseconds),
    "output_throughput_tok_s": ("throughput", "token/s", rate),
    "memory_bytes": ("memory", "", gib),
}


def own_error(view: RunView) -> str | None:
    """One line: the largest relative error of each number over all scripted cells; or why it is not known.

    ``None`` for a run of before there was such a check, or one that the driver did not make.
    """
    checks = [visit.harness_check for visit in view.record.visits if visit.harness_check is not None]
    if not checks:
        return None
    if not view.harness:
        return "not measured"
    told = [row for row in view.harness if row.gaps]
    bad = [f"{row.planned.cell}: {row.status}: {row.problem}" for row in view.harness if not row.gaps]
    if not told:
        return f"not known: {bad[0]}"
    errors = bounds(row.gaps for row in told)
    words = ", ".join(f"{_WORDS[name][0]} {percent(error)} %" for name, error in errors.items())
    failed = f"; {quantity(len(bad), 'scripted cell')} without numbers" if bad else ""
    most = most_taken(told)
    busy = f"; others took up to {taken_by_others(most)} meanwhile" if most is not None else ""
    return f"at most {words} (measured against {quantity(len(told), 'scripted cell')}{failed}{busy})"


def written(gap: Gap, value: float) -> str:
    """A value of a gap with its unit."""
    _, unit, write = _WORDS[gap.name]
    if gap.name == "memory_bytes":
        return f"{significant(value / GIB, 5)} GiB"  # three digits would hide what is to be seen
    return f"{write(value)} {unit}"


def title(name: str) -> str:
    """The number's name in tables."""
    return _WORDS[name][0] if name in _WORDS else name
