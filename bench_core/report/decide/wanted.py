"""Limits of a choice as one writes them: ``memory=24GiB,ttft_s=0.2,batch=16,quality=2%``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal

from bench_core.contract.errors import BadInput, nearest
from bench_core.contract.serving.load import Serve
from bench_core.report.decide.choose import LIMITS, Wanted

_BYTES: dict[str, Decimal | int] = {"GiB": 2**30, "GB": 10**9, "MiB": 2**20, "MB": 10**6, "bytes": 1}
_SECONDS: dict[str, Decimal | int] = {"": 1, "s": 1, "ms": Decimal("0.001")}
# Decimal, so that 7 % is the number that 0.07 is.
_UNITS: dict[str, Mapping[str, Decimal | int]] = {
    "memory": _BYTES,
    "throughput_tok_s": {"": 1},
    "ttft_s": _SECONDS,
    "tpot_s": _SECONDS,
    "ttft_p99_s": _SECONDS,
    "tpot_p99_s": _SECONDS,
    "quality": {"": 1, "%": Decimal("0.01")},
}
_POINTS = {"batch": "b", "concurrency": "c", "rate": "r"}
_TRACE = "trace"
_ASKED = (*_POINTS, _TRACE)
_MAY_BE_NOTHING = "quality"  # 0 %: no worse than the reference
_NUMBER = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?(?P<unit>[A-Za-z%]*)")
EXAMPLE = "memory=24GiB,ttft_s=0.2,batch=16,quality=2%"


def parse_wanted(text: str) -> Wanted:
    """Limits of their text form: keys and values with ``=`` between them, pairs with ``,`` between them.

    Keys: ``memory`` (with a unit: GiB, GB, MiB, MB, bytes), ``throughput_tok_s``, ``ttft_s``, ``tpot_s``,
    ``ttft_p99_s``, ``tpot_p99_s`` (s where no unit stands, or ms), ``quality`` (0.02 or 2%), and at most one of
    ``batch``, ``concurrency``, ``rate``, and ``trace``, which has no value.

    Raises:
        BadInput: a key that is none, one that stands twice, a value that cannot be read, two points.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (word.strip() for word in part.partition("="))
        if key not in _UNITS and key not in _ASKED:
            raise BadInput(f"{key}: no limit of a choice", nearest(key, [*_UNITS, *_ASKED]))
        if key == _TRACE:
            if equals:
                raise BadInput(f"{part}: a run has one trace at most", "ask for it as: trace")
        elif not equals or not value:
            raise BadInput(f"{key}: a limit needs a value", f"for example {EXAMPLE}")
        if key in found:
            raise BadInput(f"{key} stands twice", "give each limit once")
        found[key] = value
    points = [key for key in _ASKED if key in found]
    if len(points) > 1:
        raise BadInput(f"{' and '.join(points)}: cells are compared at one point", "give one of them")
    limits = {key: _limit(key, found[key]) for key in LIMITS if key in found}
    return Wanted(_point(points[0], found[points[0]]) if points else "", **limits)


def _limit(key: str, value: str) -> float:
    units = _UNITS[key]
    match = _NUMBER.fullmatch(value)
    if match is None or match["unit"] not in units:
        named = ", ".join(unit for unit in units if unit)
        hint = "a number" + (f" with its unit: {named}" if "" not in units else f", or one with {named}" * bool(named))
        raise BadInput(f"{key}={value}: not a limit", hint)
    number = float(Decimal(match["number"]) * units[match["unit"]])
    if not math.isfinite(number) or (number <= 0 and key != _MAY_BE_NOTHING):
        raise BadInput(f"{key}={value}: nothing can keep such a limit", "give a number above 0")
    return number


def _point(key: str, value: str) -> str:
    """The word of a batch size or load point."""
    if key == _TRACE:
        return key
    if key == "batch":
        if not re.fullmatch(r"[1-9][0-9]{0,6}", value):
            raise BadInput(f"batch={value}: not a batch size", "a whole number from 1 on")
        return f"b{value}"
    load = Serve.of_word(_POINTS[key] + value.replace(".", "_"))
    if load is None:
        whole = "a whole number from 1 on" if key == "concurrency" else "requests per second, for example 8 or 0.5"
        raise BadInput(f"{key}={value}: not a load point", whole)
    return load.word
