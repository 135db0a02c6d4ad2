"""How numbers and text are written: one rule each, the same in every table."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from bench_core.system.text import one_line

GIB = 2**30

ABSENT = "\N{EN DASH}"
NO_GPU = "none (CPU)"
NOT_TOLD = "not told"
NOT_READ = "not read"

# Below this, a plain decimal is mostly zeros.
_SMALLEST_PLAIN = 1e-4
_UNEVEN_SIDES = 0.1


def significant(value: float, digits: int = 4) -> str:
    """A number with ``digits`` significant digits; digits before the point are never rounded away.

    Below 0.0001 in scientific notation, otherwise as a plain decimal without separators.
    """
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    # The exponent after rounding: 9.9999 has one digit more than it seems to have.
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    if abs(value) < _SMALLEST_PLAIN and 10.0**exponent < _SMALLEST_PLAIN:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(digits - 1 - exponent, 0)}f}"


def seconds(value_s: float | None) -> str:
    """Seconds, without the unit (it stands in the column's title)."""
    return ABSENT if value_s is None else significant(value_s)


def milliseconds(value_s: float | None) -> str:
    """Seconds given, milliseconds written, without the unit."""
    return ABSENT if value_s is None else significant(value_s * 1000.0)


def percent(share: float) -> str:
    """A share in per cent, two significant digits, without the sign of per cent."""
    return significant(share * 100.0, 2)


def rate(value_per_s: float | None) -> str:
    """Tokens per second, without the unit."""
    return ABSENT if value_per_s is None else significant(value_per_s)


def rate_within(value_per_s: float, half_width_per_s: float | None) -> str:
    """A rate and half its interval, to the same decimal: ``165.9 ± 0.6``; a width that would round to 0 keeps one
    digit, and the rate alone stands where there is no interval."""
    text = rate(value_per_s)
    if half_width_per_s is None:
        return text
    decimals = len(text.partition(".")[2]) if "e" not in text else None
    width = significant(half_width_per_s, 1) if decimals is None else f"{half_width_per_s:.{decimals}f}"
    return f"{text} ± {width if float(width) > 0 or half_width_per_s == 0 else significant(half_width_per_s, 1)}"


def within(value: float, low: float | None, high: float | None, factor: float = 1.0) -> str:
    """A number times ``factor`` with its interval: ``165.9 ± 0.6``, or its ends in brackets where one side is longer
    than the other by more than a tenth; the number alone where there is none."""
    if low is None or high is None:
        return significant(value * factor)
    below, above = value - low, high - value
    if abs(above - below) <= _UNEVEN_SIDES * max(above, below):
        return rate_within(value * factor, (high - low) / 2 * factor)
    return f"{significant(value * factor)} ({significant(low * factor)}{ABSENT}{significant(high * factor)})"


def whole(value: float) -> str:
    """The nearest whole number."""
    return f"{value:.0f}"


def digits(number: int, factor: float = 1.0) -> Callable[[float], str]:
    """Writes values times ``factor`` with so many significant digits."""
    return lambda value: significant(value * factor, number)


def signed_percent(decimals: int) -> Callable[[float], str]:
    """Writes shares in per cent with their sign, without the sign of per cent."""
    return lambda share: f"{share * 100.0:+.{decimals}f}"


def count(value: float) -> str:
    """A count or a mean of counts: whole where it is whole, else with one decimal."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


def gib(value_bytes: float | None) -> str:
    """Bytes given, GiB written, with the unit, three significant digits."""
    return ABSENT if value_bytes is None else f"{significant(value_bytes / GIB, 3)} GiB"


def signed_gib(value_bytes: float) -> str:
    """The same for what may be less than nothing."""
    return gib(value_bytes) if value_bytes >= 0 else f"-{gib(-value_bytes)}"


def share3(value: float) -> str:
    """A share, three decimals."""
    return f"{value:.3f}"


def quantity(number: int, singular: str) -> str:
    """``1 batch``, ``2 batches``."""
    if number == 1:
        return f"1 {singular}"
    return f"{number} {singular}{'es' if singular.endswith(('ch', 's', 'x')) else 's'}"


# Characters that Markdown, its tables, or HTML inside it would act upon. Entities rather than backslashes where both a
# table's and a paragraph's parser would otherwise have to agree on who unescapes.
_ENTITIES = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    "|": "&#124;",
    "`": "&#96;",
    "\\": "&#92;",
    "@": "&#64;",
    "$": "&#36;",
}
_ACTIVE = re.compile(r"[&<>|`\\@$]|[*\[\]~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|://|www\.")


def markdown_text(text: str) -> str:
    """Any text for a place in a Markdown line or table cell, whole: nothing in it acts as markup, HTML or a link."""
    return _ACTIVE.sub(_inert, one_line(text))


def _inert(match: re.Match[str]) -> str:
    found = match.group()
    if found == "://":
        return ":&#47;&#47;"
    if found == "www.":
        return "www&#46;"
    return _ENTITIES.get(found, f"\\{found}")


# What a spreadsheet takes for the beginning of a formula; the wide forms are for those of East Asian languages.
_FORMULA = (
    "=", "+", "-", "@",
    "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}", "\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}",
)  # fmt: skip


def csv_text(text: str) -> str:
    """Any text for a CSV field: one line, whole, and never a formula when a spreadsheet opens the file."""
    plain = one_line(text)
    return f"'{plain}" if plain.startswith(_FORMULA) else plain
