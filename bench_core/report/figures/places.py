"""Where the words beside the points of a drawing have room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

WIDTH_PX = 520
_CHARACTER_PX, _LINE_PX = 6.4, 12.0
_POINT_PX = 5.0


class Spot(NamedTuple):
    """A point, in pixels from the upper left corner of the plot, and the word that it should have."""

    x: float
    y: float
    word: str


class Side(NamedTuple):
    """Where a word stands beside its point; pixels."""

    name: str
    align: Literal["left", "right", "center"]
    dx: int
    dy: int


_SIDES = (
    Side("right", "left", 8, 0),
    Side("above", "center", 0, -12),
    Side("below", "center", 0, 13),
    Side("left", "right", -8, 0),
    Side("above right", "left", 6, -9),
    Side("below right", "left", 6, 10),
    Side("above left", "right", -6, -9),
    Side("below left", "right", -6, 10),
)

_Box = tuple[float, float, float, float]


def label_sides(spots: Sequence[Spot], width: float, height: float) -> list[Side | None]:
    """For each word the first side on which it covers no point and no word before it; ``None`` where it has no room."""
    taken: list[_Box] = [(s.x - _POINT_PX, s.y - _POINT_PX, s.x + _POINT_PX, s.y + _POINT_PX) for s in spots]
    found: list[Side | None] = []
    for spot in spots:
        chosen = None
        for side in _SIDES:
            box = _box(spot, side)
            inside = box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= height
            if inside and not any(_overlap(box, other) for other in taken):
                chosen = side
                taken.append(box)
                break
        found.append(chosen)
    return found


def _box(spot: Spot, side: Side) -> _Box:
    wide = len(spot.word) * _CHARACTER_PX
    left = {"left": 0.0, "center": -wide / 2, "right": -wide}[side.align]
    x, y = spot.x + side.dx + left, spot.y + side.dy
    return x, y - _LINE_PX / 2, x + wide, y + _LINE_PX / 2


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
