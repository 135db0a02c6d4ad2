"""What cells are compared by, each declared once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bench_core.contract.errors import BadInput, nearest
from bench_core.report.format import GIB, digits, significant

DEFAULT_BOUND = 0.03
# A bound is a share of the baseline's number: all of it lost is no bound.
_HIGHEST_BOUND = 0.9


@dataclass(frozen=True)
class Quantity:
    """One quantity.

    Attributes:
        name: on the command line and in JSON; ``unit``: of its values there.
        title, shown_unit, written: in tables.
        higher_is_better: which change is a worsening.
    """

    name: str
    title: str
    unit: str
    shown_unit: str
    written: Callable[[float], str]
    higher_is_better: bool = False

    def worsening(self, log_change: float) -> float:
        """A change as the logarithm of new / old, with the sign that worse is above 0."""
        return -log_change if self.higher_is_better else log_change

    def limit(self, bound: float) -> float:
        """The worsening that a bound allows: of a rate, ``bound`` of it may be lost; of a latency, as much added."""
        return -math.log1p(-bound) if self.higher_is_better else math.log1p(bound)


_MS = digits(4, 1e3)
_GIB = digits(4, 1 / GIB)

QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity("throughput", "Throughput", "token/s", "token/s", significant, higher_is_better=True),
        Quantity("ttft", "TTFT", "s", "ms", _MS),
        Quantity("ttft_p99", "TTFT p99", "s", "ms", _MS),
        Quantity("tpot", "TPOT", "s", "ms", _MS),
        Quantity("goodput", "Goodput", "requests/s", "requests/s", significant, higher_is_better=True),
        Quantity("memory", "Memory", "bytes", "GiB", _GIB),
        Quantity("energy", "Energy", "J/token", "J/token", significant),
        Quantity("quality", "Perplexity", "perplexity", "", significant),
    )
}


def chosen(words: str) -> tuple[Quantity, ...]:
    """Quantities named in a list with commas; all for an empty one.

    Raises:
        BadInput: a name that is none of theirs.
    """
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        _known(name)
    return tuple(quantity for name, quantity in QUANTITIES.items() if name in names or not names)


def bounds_of(words: str) -> dict[str, float]:
    """The bound of each quantity: ``3%``, ``0.03``, or with some of their own, ``3%,memory=5%``.

    Raises:
        BadInput: not such words, or a bound that is not above 0 and at most 90 %.
    """
    found = dict.fromkeys(QUANTITIES, DEFAULT_BOUND)
    own: dict[str, float] = {}
    for word in words.split(","):
        name, equals, text = word.rpartition("=")
        bound = share_of(text, "--max-regression")
        if not 0 < bound <= _HIGHEST_BOUND:
            raise BadInput(f"--max-regression {word}: a bound is above 0 and at most {_HIGHEST_BOUND:.0%}")
        if equals:
            own[_known(name.strip())] = bound
        else:
            found = dict.fromkeys(QUANTITIES, bound)
    return found | own


def share_of(text: str, option: str) -> float:
    """``3%`` or ``0.03``.

    Raises:
        BadInput: no such number.
    """
    plain = text.strip()
    try:
        value = float(plain.removesuffix("%")) / (100 if plain.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{option}: {text!r} is no share", "a share is a number such as 3% or 0.03")
    return value


def _known(name: str) -> str:
    if name not in QUANTITIES:
        raise BadInput(f"{name!r} is no quantity that cells are compared by", nearest(name, QUANTITIES))
    return name
