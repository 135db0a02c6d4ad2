"""The parts of an SVG: marks that say their data, axes, legends, and plots one below the other.

Written here and not by a drawing program, since starting one takes longer than reading the events of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

# Liberation Sans travels with vl-convert and has Arial's measures, so nothing moves where a viewer has only the latter.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
INK, PALE_INK, GRID = "#1f2328", "#59636e", "#e4e7eb"

# Thousandths of the font's size (Arial's). What is not named is taken for wide, as a Chinese character is.
_WIDTHS = {
    character: width
    for width, characters in {
        191: "'", 222: "ijl", 260: "|", 278: " !,./:;I[\\]ft", 333: "()-`r", 334: "{}", 355: '"', 389: "*", 469: "^",
        500: "Jckvsxyz", 556: "#$0123456789?L_abdeghnopqu", 584: "+<=>~\N{MULTIPLICATION SIGN}", 611: "FTZ",
        667: "&ABEKPSVXY", 722: "CDHNRUw", 778: "GOQ", 833: "Mm", 889: "%", 944: "W",
    }.items()
    for character in characters
}  # fmt: skip
_BOLD = 1.08  # as much wider
# Room for a viewer that has none of the fonts and takes a wider one: a sixth of a character for each.
_SPARE_PER_CHARACTER = 1.0

_MARGIN, _BETWEEN = 16, 38
_TITLE_SIZE, _SUBTITLE_SIZE, _SUBTITLE_LINE, _BELOW_TITLES = 17, 12, 14.5, 16
_LABEL_SIZE, _AXIS_TITLE_SIZE = 12, 12.5
LEGEND_LINE = 16
_TICK, _LEGEND_LEFT, _SYMBOL_SIZE = 5, 22, 70
_MIDDLE = 0.32  # of a font's size: from the middle of a line of text down to its baseline
_TICKS = 6

CROSS = "cross of two lines"
_SHAPES: Mapping[str, Sequence[tuple[float, float]]] = {
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "diamond": ((-1, 0), (0, -1), (1, 0), (0, 1)),
    "triangle-up": ((0, -0.866), (-1, 0.866), (1, 0.866)),
    "triangle-down": ((0, 0.866), (-1, -0.866), (1, -0.866)),
    "triangle-right": ((0.866, 0), (-0.866, -1), (-0.866, 1)),
    "cross": (
        (-1, -0.4), (-1, 0.4), (-0.4, 0.4), (-0.4, 1), (0.4, 1), (0.4, 0.4), (1, 0.4), (1, -0.4), (0.4, -0.4),
        (0.4, -1), (-0.4, -1), (-0.4, -0.4),
    ),
}  # fmt: skip


def text_width(words: str, size: float) -> float:
    """Pixels, about."""
    return sum(_WIDTHS.get(character, 1000) for character in words) * size / 1000


def number(value: float) -> str:
    """A coordinate, to a thousandth of a pixel."""
    text = f"{value:.3f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def element(name: str, content: str = "", /, **attributes: str | float) -> str:
    """One element; ``content`` is SVG. In names of attributes an underscore stands for a hyphen."""
    told = "".join(
        f' {key.replace("_", "-")}="{escape(value) if isinstance(value, str) else number(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{told}>{content}</{name}>" if content else f"<{name}{told}/>"


def mark(name: str, says: str, kind: str, content: str = "", /, **attributes: str | float) -> str:
    """An element that says its data, in ``aria-label``. ``kind``: in words, for who does not see it."""
    # In this order: verify reads them so.
    return element(name, content, aria_label=says, role="graphics-symbol", aria_roledescription=kind, **attributes)


def group(kind: str, elements: Iterable[str]) -> str:
    """Marks of one kind, as ``line``."""
    return element("g", "".join(elements), **{"class": f"mark-{kind} role-mark"})


def symbol(shape: str, x: float, y: float, size: float) -> dict[str, str]:
    """Where and what a ``path`` is for a point of a shape; ``size`` is of the square around it, square pixels."""
    r = math.sqrt(size) / 2
    if shape == "circle":
        d = f"M{number(r)},0A{number(r)},{number(r)},0,1,1,{number(-r)},0A{number(r)},{number(r)},0,1,1,{number(r)},0"
    elif shape == CROSS:
        a = number(r)
        d = f"M-{a},-{a}L{a},{a}M-{a},{a}L{a},-{a}"
    else:
        d = f"M{'L'.join(f'{number(r * dx)},{number(r * dy)}' for dx, dy in _SHAPES[shape])}Z"
    return {"transform": f"translate({number(x)},{number(y)})", "d": d}


def dashes(lengths: Sequence[float]) -> dict[str, str]:
    """How a stroke is dashed; nothing where its gaps are 0."""
    return {"stroke_dasharray": ",".join(map(number, lengths))} if any(lengths[1::2]) else {}


def text(
    x: float, y: float, words: str, size: float = _LABEL_SIZE, *, fill: str = INK, says: str = "", **attributes: str
) -> str:
    """A line of text whose middle is at ``y``, beginning at ``x``; with ``text_anchor`` it ends there or is centred.

    Args:
        says: its data, where it is a mark.
    """
    where: dict[str, str | float] = {"x": x, "y": y + _MIDDLE * size, "font_size": size, "fill": fill, **attributes}
    if says:
        return mark("text", says, "text mark", escape(words, quote=False), **where)
    return element("text", escape(words, quote=False), **where)


@dataclass(frozen=True)
class Axis:
    """A scale along an edge of a plot.

    Attributes:
        length: pixels.
        low, high: values at its ends.
        ticks: values that are named.
        log: a logarithmic scale, else a linear one.
    """

    length: float
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Pixels from the end of the low value."""
        if self.log:
            return self.length * math.log(value / self.low) / math.log(self.high / self.low)
        return self.length * (value - self.low) / (self.high - self.low)


def linear(length: float, high: float, *, low: float = 0.0, whole: bool = False) -> Axis:
    """A linear axis. ``whole``: it ends with a tick."""
    step = _step(high - low)
    if whole:
        high = math.ceil(high / step - 1e-9) * step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(length, low, high, tuple(step * k for k in range(first, last + 1)))


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are about six ticks."""
    rough = span / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    fits = ((math.sqrt(50), 10), (math.sqrt(10), 5), (math.sqrt(2), 2))
    return power * next((factor for least, factor in fits if rough / power >= least), 1)


def plain_number(value: float) -> str:
    """A tick's number: with separators of thousands, and never as a power of ten."""
    if value == 0:
        return "0"
    shown = f"{float(f'{value:.6g}'):,.6f}" if abs(value) >= 1 else f"{float(f'{value:.3g}'):.12f}"
    return shown.rstrip("0").rstrip(".")


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten around the values; of many powers, only these themselves."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 4 else (1,)
    ticks = [float(f"{step}e{exponent}") for exponent in range(first, last + 1) for step in steps]
    below = max((tick for tick in ticks if tick <= low), default=ticks[0])
    above = min((tick for tick in ticks if tick >= high), default=ticks[-1])
    return [tick for tick in ticks if below <= tick <= above]


@dataclass(frozen=True)
class Plot:
    """A plot and what stands around it. Its upper left corner is the origin; pixels, downwards.

    Attributes:
        parts: SVG, in the order in which it is drawn.
        left, right, above, below: what the parts around it take.
    """

    width: float
    height: float
    parts: tuple[str, ...]
    left: float = 0.0
    right: float = 0.0
    above: float = 0.0
    below: float = 0.0


def grid(x: Axis | None, y: Axis | None, width: float, height: float) -> list[str]:
    """Lines at the ticks."""
    down = [(x.at(tick), 0.0, x.at(tick), height) for tick in x.ticks] if x else []
    across = [(0.0, y.length - y.at(tick), width, y.length - y.at(tick)) for tick in y.ticks] if y else []
    return [rule(*ends, stroke=GRID) for ends in (*down, *across)]


def rule(
    x: float, y: float, x2: float, y2: float, *, stroke: str, stroke_width: float = 1.0, dash: Sequence[float] = ()
) -> str:
    """A straight line."""
    return element("line", x1=x, y1=y, x2=x2, y2=y2, stroke=stroke, stroke_width=stroke_width, **dashes(dash))


def x_axis(
    axis: Axis, top: float, title: str, *, ticks: bool = True, named: Callable[[float], str] = plain_number
) -> tuple[list[str], float]:
    """Labels and title below a plot whose lower edge is ``top``; and the room that they take."""
    parts = [rule(0, top, axis.length, top, stroke=PALE_INK)]
    free = -math.inf
    for tick in axis.ticks:
        at, words = axis.at(tick), named(tick)
        if ticks:
            parts.append(rule(at, top, at, top + _TICK, stroke=PALE_INK))
        half = text_width(words, _LABEL_SIZE) / 2
        if at - half >= free:  # one that would run into its neighbour is left out
            parts.append(text(at, top + 12, words, text_anchor="middle"))
            free = at + half + 2
    if title:
        parts.append(text(axis.length / 2, top + 33, title, _AXIS_TITLE_SIZE, text_anchor="middle"))
    return parts, 40 if title else 20


def y_axis(axis: Axis, title: str) -> tuple[list[str], float]:
    """Labels and title to the left of a plot; and the room that they take. A linear one has no line of its own."""
    parts = [rule(0, 0, 0, axis.length, stroke=PALE_INK)] if axis.log else []
    widest = 0.0
    for tick in axis.ticks:
        at, words = axis.length - axis.at(tick), plain_number(tick)
        if axis.log:
            parts.append(rule(-_TICK, at, 0, at, stroke=PALE_INK))
        parts.append(text(-_TICK - 2, at, words, text_anchor="end"))
        widest = max(widest, text_width(words, _LABEL_SIZE))
    left = widest + 17
    middle = f"translate({number(-left - _AXIS_TITLE_SIZE / 2)},{number(axis.length / 2)}) rotate(-90)"
    parts.append(text(0, 0, title, _AXIS_TITLE_SIZE, text_anchor="middle", transform=middle))
    return parts, left + _AXIS_TITLE_SIZE + 3


def legend(rows: Sequence[tuple[str, str, Mapping[str, str | float]]], x: float) -> tuple[list[str], float, float]:
    """A line for each (words, shape, attributes of its symbol), right of a plot that ends at ``x``; and the width and
    height that they take."""
    parts = []
    for place, (words, shape, attributes) in enumerate(rows):
        y = place * LEGEND_LINE + LEGEND_LINE / 2
        parts.append(element("path", **symbol(shape, x + _LEGEND_LEFT + 6, y, _SYMBOL_SIZE), **attributes))
        parts.append(text(x + _LEGEND_LEFT + 17, y, words))
    width = max((text_width(words, _LABEL_SIZE) for words, _, _ in rows), default=0.0)
    return parts, _LEGEND_LEFT + 17 + width, len(rows) * LEGEND_LINE


def empty(width: float, words: str = "No cell has a number") -> Plot:
    """In place of a plot without points."""
    return Plot(width, 80, (text(width / 2, 40, words, 14, fill=PALE_INK, text_anchor="middle"),))


def svg_of(plots: Sequence[Plot], title: str, subtitle: Sequence[str], longest: int) -> str:
    """The whole drawing: a head, and plots one below the other.

    Args:
        longest: characters of the longest name beside the plots.
    """
    left = max(plot.left for plot in plots)
    head = _TITLE_SIZE + 3 + _SUBTITLE_LINE * len(subtitle) + _BELOW_TITLES
    titles = [text_width(title, _TITLE_SIZE) * _BOLD, *(text_width(line, _SUBTITLE_SIZE) for line in subtitle)]
    right = max(*titles, *(plot.width + plot.right for plot in plots))
    parts = [text(0, _TITLE_SIZE / 2, title, _TITLE_SIZE, font_weight="bold")]
    for place, line in enumerate(subtitle):
        at = _TITLE_SIZE + 5 + _SUBTITLE_LINE * place + _SUBTITLE_SIZE / 2
        parts.append(text(0, at, line, _SUBTITLE_SIZE, fill=PALE_INK))
    y = head
    for plot in plots:
        y += plot.above
        parts.append(element("g", "".join(plot.parts), transform=f"translate(0,{number(y)})"))
        y += plot.height + plot.below + _BETWEEN
    width = math.ceil(2 * _MARGIN + left + right + _SPARE_PER_CHARACTER * longest)
    height = math.ceil(2 * _MARGIN + y - _BETWEEN)
    body = element(
        "g", "".join(parts), fill="none", stroke_miterlimit=10, font_family=FONT,
        transform=f"translate({number(_MARGIN + left)},{_MARGIN})",
    )  # fmt: skip
    return element(
        "svg", element("rect", width=width, height=height, fill="#ffffff") + body,
        xmlns="http://www.w3.org/2000/svg", version="1.1", width=width, height=height,
        viewBox=f"0 0 {width} {height}", role="graphics-document", aria_label=title,
    )  # fmt: skip
