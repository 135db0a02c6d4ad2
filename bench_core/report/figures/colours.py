"""One colour for each engine: the same in all runs, in all figures, on white and on black.

Every colour has a contrast of 3 to 1 or more with both backgrounds (WCAG 2.2, 1.4.11: graphical objects). So many
colours cannot all differ for everybody, so methods differ in the shape of their points too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files

# A line of its own for 21 methods of one colour: cycles of lengths without a common divisor.
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
DASHES = ((1, 0), (6, 3), (2, 2))
# For engines that the file does not know, such as a reader's own image.
SPARE = ("#5b7fbf", "#b5572f", "#2e8b8b", "#b04a86", "#6f8a00", "#8a6fd1", "#a06a2c", "#3f8f4f")


@cache
def _known() -> dict[str, str]:
    text = files("bench_core.report.figures").joinpath("colours.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text)
    return found


def engine_colours(images: Iterable[str]) -> dict[str, str]:
    """By image. One that is not known gets a spare colour by its name, or the next that is free."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(images):
        known = _known().get(name)
        if known is None:
            first = hashlib.sha256(name.encode()).digest()[0]
            turns = [SPARE[(first + k) % len(SPARE)] for k in range(len(SPARE))]
            known = next((colour for colour in turns if colour not in found.values()), turns[0])
        found[name] = known
    return found


Look = tuple[str, str, tuple[int, int]]
Looks = dict[str, Look]


def looks(engines: Mapping[str, str]) -> Looks:
    """Colour, shape and dash of each method, from method to engine: the engine's colour, and among the methods of one
    colour a shape and a dash that no other has."""
    colours = engine_colours(engines.values())
    first = {colour: k for k, colour in enumerate(dict.fromkeys(colours.values()))}
    taken: dict[str, int] = {}
    found: Looks = {}
    for method, engine in engines.items():
        colour = colours[engine]
        k = taken.get(colour, 0)
        taken[colour] = k + 1
        found[method] = (colour, SHAPES[(first[colour] + k) % len(SHAPES)], DASHES[k % len(DASHES)])
    return found
