"""Rectangles of prompts, and rows that end early."""

from __future__ import annotations

from collections.abc import Sequence

from bench_core.contract.rectangle import ArrivalStreamer, Rectangle, until_end


class Ids(list[int]):
    """What an engine hands to a streamer, as far as it is looked at."""

    def tolist(self) -> list[int]:
        return list(self)


class Sink:
    """Keeps which rows had a token at each step."""

    wanted = True

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def __call__(self, row: int, count: int = 1) -> None:
        raise AssertionError("arrivals come by step")

    def step(self, rows: Sequence[int]) -> None:
        self.steps.append(list(rows))

    def engine(self, row: int, monotonic_s: Sequence[float]) -> None:
        raise AssertionError("the worker stamps")


def test_prompts_end_together_and_padding_is_masked() -> None:
    prompts = [[5, 6, 7], [8], [9, 10]]
    rectangle = Rectangle.of(prompts, 0)
    assert rectangle.ids == [[5, 6, 7], [0, 0, 8], [0, 9, 10]]
    assert rectangle.mask == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
    assert (rectangle.gaps, rectangle.width) == ([0, 2, 1], 3)
    assert prompts == [[5, 6, 7], [8], [9, 10]], "the prompts are not the adapter's to change"


def test_a_padding_id_inside_a_prompt_is_a_token_like_others() -> None:
    assert Rectangle.of([[0, 0], [3]], 0).mask == [[1, 1], [0, 1]]


def test_a_row_ends_with_the_first_end_of_sequence_id_of_any_kind() -> None:
    assert until_end([4, 2, 9, 2], (9, 2)) == [4, 2]
    assert until_end([2], (2,)) == [2]
    assert until_end([4, 5], (2,)) == [4, 5]
    assert until_end([4, 2], ()) == [4, 2]


def test_prompts_are_no_arrival_and_an_ended_row_has_no_more() -> None:
    sink = Sink()
    streamer = ArrivalStreamer(sink, 2, (2,))
    for ids in ([1, 1], [7, 7], [2, 7], [0, 7]):
        streamer.put(Ids(ids))
    streamer.end()
    assert sink.steps == [[0, 1], [0, 1], [1]]
