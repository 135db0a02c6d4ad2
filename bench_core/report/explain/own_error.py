"""The suite's own error on this machine, from the scripted cells of every visit, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench_core.contract.measures.cpu_use import taken_by_others
from bench_core.contract.measures.own_error import Gap, bounds
from bench_core.report.explain.busy_host import most_taken
from bench_core.report.format import GIB, gib, milliseconds, percent, quantity, rate, seconds, significant
from bench_core.runs.view import Ended, Row, RunView, ServedRow

# Number of a gap: its name in tables, and how it is written.
_WORDS: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "ttft_s": ("TTFT", "s", seconds),
    "tpot_s": ("TPOT", "ms", milliseconds),
    "output_throughput_tok_s": ("throughput", "token/s", rate),
    "memory_bytes": ("memory", "", gib),
    "lateness_s": ("lateness", "ms", milliseconds),
}


def own_error(view: RunView) -> str | None:
    """One line: the largest relative error of each number over all scripted cells, and those under load; or why it is
    not known.

    ``None`` for a run of before there was such a check, or one that the driver did not make.
    """
    checks = [visit.harness_check for visit in view.record.visits if visit.harness_check is not None]
    if not checks:
        return None
    return "; ".join(filter(None, (own_error_of_batches(view), own_error_under_load(view)))) or "not measured"


def own_error_of_batches(view: RunView) -> str:
    """The part of that line on closed batches; empty where there is none."""
    return _of_batches(view.own_error) if view.own_error else ""


def own_error_under_load(view: RunView) -> str:
    """The part of that line on cells under load, visit by visit; empty where there is none."""
    return "; ".join(dict.fromkeys(map(_under_load, view.own_error_served)))


def _of_batches(rows: Sequence[Row]) -> str:
    told = [row for row in rows if row.gaps]
    bad = [_without(row) for row in rows if not row.gaps]
    if not told:
        return f"not known: {bad[0]}"
    errors = bounds(row.gaps for row in told)
    words = ", ".join(f"{title(name)} {percent(error)} %" for name, error in errors.items())
    failed = f"; {quantity(len(bad), 'scripted cell')} without numbers" if bad else ""
    most = most_taken(told)
    busy = f"; others took up to {taken_by_others(most)} meanwhile" if most is not None else ""
    return f"at most {words} (measured against {quantity(len(told), 'scripted cell')}{failed}{busy})"


def _under_load(row: ServedRow) -> str:
    """Of one scripted cell, which is measured at the largest load point."""
    if not row.gaps:
        return f"under load not known: {_without(row)}"
    words = ", ".join(_served_words(gap) for gap in row.gaps)
    disturbed = f"; {row.unranked}" if row.unranked else ""
    return f"under load at {row.load.words}: {words} (measured against a scripted server{disturbed})"


def _served_words(gap: Gap) -> str:
    if gap.name == "ttft_s":
        low, high = ends(gap, -gap.scripted)
        return f"median TTFT {signed(gap.difference)} s{_interval(low, high, _short)}"
    if gap.name == "tpot_s":
        low, high = ends(gap, -gap.scripted, 1 / gap.scripted)
        return f"TPOT {signed(gap.error * 100.0)} %{_interval(low, high, percent)}"
    if gap.name == "lateness_s":
        return f"requests sent {_short(gap.measured)} s late"
    share = gap.measured / gap.scripted if gap.scripted else 0.0
    low, high = ends(gap, 0.0, 1 / gap.scripted if gap.scripted else 1.0)
    return f"{significant(share * 100.0)} % of the ideal output rate{_interval(low, high, _share)}"


def _short(value: float) -> str:
    return significant(value, 2)


def _share(share: float) -> str:
    return significant(share * 100.0)


def ends(gap: Gap, added: float = 0.0, factor: float = 1.0) -> tuple[float | None, float | None]:
    """A gap's interval, with something added and then multiplied; two times ``None`` where it has none."""
    if gap.low is None or gap.high is None:
        return None, None
    return (gap.low + added) * factor, (gap.high + added) * factor


def _interval(low: float | None, high: float | None, write: Callable[[float], str]) -> str:
    return "" if low is None or high is None else f" ({_with_sign(low, write)} to {_with_sign(high, write)})"


def _with_sign(value: float, write: Callable[[float], str]) -> str:
    return f"-{write(-value)}" if value < 0 else write(value)


def signed(value: float) -> str:
    """A difference, two significant digits, with its sign."""
    return f"{'-' if value < 0 else '+'}{significant(abs(value), 2)}"


def _without(row: Ended) -> str:
    return f"{row.planned.cell}: {row.status}: {row.problem}"


def written(gap: Gap, value: float) -> str:
    """A value of a gap with its unit."""
    _, unit, write = _WORDS[gap.name]
    if gap.name == "memory_bytes":
        return f"{significant(value / GIB, 5)} GiB"  # three digits would hide what is to be seen
    return f"{write(value)} {unit}"


def title(name: str) -> str:
    """The number's name in tables."""
    return _WORDS[name][0] if name in _WORDS else name
