"""Whose line is whose: colours, shapes and dashes of the figures."""

from __future__ import annotations

import pytest

from bench_core.report.figures import COLOURS, _styles


def engines(*methods_of: int) -> dict[str, str]:
    """So many methods of each engine, their lines mixed."""
    pairs = [(f"method {k}.{j}", f"engine {k}") for k, many in enumerate(methods_of) for j in range(many)]
    return dict(sorted(pairs, key=lambda pair: pair[0][::-1]))


@pytest.mark.parametrize("methods_of", [(1,), (3, 3, 3), (9,), (4, 2, 5, 1, 1, 2, 2, 2, 1), (20, 20), (1,) * 60])
def test_no_two_methods_look_alike(methods_of: tuple[int, ...]) -> None:
    found = _styles(engines(*methods_of))
    assert len(found) == sum(methods_of)
    assert len(set(found.values())) == len(found)


def test_a_few_methods_have_a_colour_each() -> None:
    found = _styles(engines(4, 4, 1))
    assert len({colour for colour, _, _ in found.values()}) == 9


def test_of_many_methods_an_engine_has_a_colour() -> None:
    names = engines(4, 2, 5, 1, 1, 2, 2, 2, 1)
    found = _styles(names)
    for engine in set(names.values()):
        assert len({found[method][0] for method in names if names[method] == engine}) == 1
    assert len({colour for colour, _, _ in found.values()}) == len(COLOURS)


def test_more_engines_than_colours_share_them() -> None:
    found = _styles(engines(*(1,) * 12))
    assert {colour for colour, _, _ in found.values()} == set(COLOURS)
