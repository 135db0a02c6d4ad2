"""Limits of a choice, and why they rule a cell out, in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench_core.report.decide.choose import LIMITS, Reason, Wanted
from bench_core.report.decide.option import SATURATED, Option
from bench_core.report.format import GIB, significant

_DIGITS = 3
_MOST_DIGITS = 12


@dataclass(frozen=True)
class _Limit:
    """How a limit is spoken of. ``over``: of a number that breaks it; ``absent``: of a cell without the number."""

    name: str
    unit: str
    factor: float
    over: str
    absent: str
    least: bool = False


def _time(name: str) -> _Limit:
    return _Limit(name, "s", 1.0, f"{name} {{}}, {{}} allowed", f"{name} not known")


_LIMITS = {
    "memory": _Limit("memory", "GiB", 1 / GIB, "needs {}, {} allowed", "memory not known"),
    "throughput_tok_s": _Limit("throughput", "token/s", 1.0, "{}, {} wanted", "throughput not known", least=True),
    "ttft_s": _time("TTFT"),
    "tpot_s": _time("TPOT"),
    "ttft_p99_s": _time("p99 of TTFT"),
    "tpot_p99_s": _time("p99 of TPOT"),
    "quality": _Limit(
        "perplexity above the reference's",
        "%",
        100.0,
        "perplexity {} above the reference's, {} allowed",
        "quality not known",
    ),
}


def wanted_words(wanted: Wanted) -> str:
    """``memory at most 24 GiB, TTFT at most 0.2 s``; empty without a limit."""
    asked = ((_LIMITS[key], getattr(wanted, key)) for key in LIMITS)
    return ", ".join(
        f"{limit.name} at {'least' if limit.least else 'most'} {value * limit.factor:.6g} {limit.unit}"
        for limit, value in asked
        if value is not None
    )


def limit_name(key: str) -> str:
    """What a limit is of, as ``TTFT``."""
    return _LIMITS[key].name


def reason_words(option: Option, reason: Reason) -> str:
    """Why a cell is ruled out, with the number: ``needs 27.2 GiB, 24 GiB allowed``."""
    if reason.key in _OF_THE_CELL:
        return _OF_THE_CELL[reason.key](option)
    limit = _LIMITS[reason.key]
    if reason.value is None or reason.limit is None:
        return limit.absent
    value, allowed = reason.value * limit.factor, f"{reason.limit * limit.factor:.6g} {limit.unit}"
    close = "; its interval holds the limit" if reason.close else ""
    if would_fit(option, reason):
        close += (
            f"; it reserved {significant((option.unused_bytes or 0) / GIB, _DIGITS)} GiB of that and did not use it"
        )
    return limit.over.format(f"{_apart(value, reason.limit * limit.factor)} {limit.unit}", allowed) + close


def would_fit(option: Option, reason: Reason) -> bool:
    """Whether a cell is over a limit of memory by what it reserved and did not use: with a smaller reservation, which
    was not measured, it might fit."""
    if reason.key != "memory" or reason.value is None or reason.limit is None or option.unused_bytes is None:
        return False
    return reason.value - option.unused_bytes <= reason.limit


def _apart(value: float, other: float) -> str:
    """A number with so many digits that it is seen to differ from another."""
    digits = _DIGITS
    while digits < _MOST_DIGITS and significant(value, digits) == significant(other, digits):
        digits += 1
    return significant(value, digits)


_OF_THE_CELL: dict[str, Callable[[Option], str]] = {
    "outcome": lambda option: f"{option.outcome}: {option.cause}" if option.cause else option.outcome,
    "unranked": lambda option: f"not ranked: {option.unranked}",
    SATURATED: lambda _: f"{SATURATED}: the server did not keep up with this load",
}
