"""vLLM's token times: each step's tokens are told as they leave the engine's core, which is left as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from image_module import image_module

from bench_core.worker.engine.sink import StampingSink

ROWS = {"0-a1": 0, "1-b2": 1, "2-c3": 2}


class Core:
    """Steps as the engine's core returns them."""

    def __init__(self, *steps: dict[str, list[int]]) -> None:
        self._steps = list(steps)
        self.made = 0

    def get_output(self) -> Any:
        self.made += 1
        step = self._steps.pop(0)
        return SimpleNamespace(
            outputs=[SimpleNamespace(request_id=name, new_token_ids=ids) for name, ids in step.items()]
        )


def stamps(core: Core, steps: int) -> list[list[int]]:
    """Each row's stamps, of a clock that tells the number of the step."""
    sink = StampingSink(len(ROWS), lambda: core.made, wanted=True)
    with image_module("vllm", "engine_steps").tokens_told(core, ROWS, sink):
        for _ in range(steps):
            core.get_output()
    return [list(row) for row in sink._rows]


def test_rows_get_their_tokens_at_the_step_that_gave_them() -> None:
    first = {"1-b2": [5], "0-a1": [4]}
    second = {"0-a1": [7], "2-c3": [8], "1-b2": [9]}
    assert stamps(Core(first, second), 2) == [[1, 2], [1, 2], [2]]


def test_a_step_may_give_several_tokens_or_none() -> None:
    assert stamps(Core({"0-a1": [4, 5, 6], "1-b2": [], "2-c3": [1]}, {}), 2) == [[1, 1, 1], [], [1]]


def test_what_the_engine_gets_is_what_its_core_gave() -> None:
    core = Core({"0-a1": [4]})
    with image_module("vllm", "engine_steps").tokens_told(core, ROWS, StampingSink(3, lambda: 0, wanted=True)):
        assert [output.new_token_ids for output in core.get_output().outputs] == [[4]]


def test_afterwards_the_core_is_as_it_was() -> None:
    core = Core({"0-a1": [4]}, {"0-a1": [5]})
    sink = StampingSink(3, lambda: 0, wanted=True)
    with pytest.raises(KeyError), image_module("vllm", "engine_steps").tokens_told(core, {}, sink):
        core.get_output()
    assert "get_output" not in vars(core)
    assert core.get_output().outputs[0].new_token_ids == [5]
    assert sink.arrivals(0) is None
