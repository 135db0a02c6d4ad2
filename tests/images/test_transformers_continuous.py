"""What the image of Transformers does around ``generate_batch``: a cache of the cell's size, ends of rows, failures
that the engine keeps to itself. A stand-in plays the engine; the contract suite shows the same in the image."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from image_module import image_module

from bench_core.contract.adapter import Decoding

BLOCK_TOKENS = 256


class Model:
    """The engine: writes numbers that count on from a prompt's last, and notes what it was asked for."""

    def __init__(self, groups: int = 1) -> None:
        self.device = SimpleNamespace(type="cpu")
        self.config = SimpleNamespace(
            get_text_config=lambda: SimpleNamespace(groups=groups), _attn_implementation="paged|sdpa"
        )
        self.made: list[Any] = []
        self.calls: list[dict[str, Any]] = []
        self.destroyed = 0
        self.fails: dict[int, str] = {}
        self.lost: tuple[int, ...] = ()
        self.fatal: Exception | None = None

    @contextmanager
    def continuous_batching_context_manager(
        self, generation_config: Any, continuous_batching_config: Any, persistent_manager: bool
    ) -> Iterator[Any]:
        assert persistent_manager
        self.made.append(continuous_batching_config)
        yield SimpleNamespace(background_thread_status=SimpleNamespace(fatal_error=self.fatal))

    def destroy_cached_continuous_batching_manager(self) -> None:
        self.destroyed += 1

    def generate_batch(self, inputs: Sequence[Sequence[int]], max_new_tokens: int, **more: Any) -> dict[str, Any]:
        self.calls.append({"max_new_tokens": max_new_tokens, "eos": more["generation_config"].eos_token_id, **more})
        rows = {}
        for place, prompt in enumerate(inputs):
            if place not in self.lost:
                tokens = [prompt[-1] + 1 + step for step in range(max_new_tokens)]
                stamps = [float(step) for step in range(max_new_tokens)] if more["record_timestamps"] else None
                rows[f"req_{place}"] = SimpleNamespace(
                    generated_tokens=tokens, timestamps=stamps, error=self.fails.get(place)
                )
        return rows


@pytest.fixture
def continuous() -> Iterator[ModuleType]:
    """The module, with stand-ins for what it imports."""
    transformers = ModuleType("transformers")
    settings = {"block_size": BLOCK_TOKENS}
    transformers.ContinuousBatchingConfig = lambda **asked: SimpleNamespace(**settings, **asked)  # type: ignore[attr-defined]
    transformers.GenerationConfig = SimpleNamespace  # type: ignore[attr-defined]
    cache = ModuleType("cache")
    cache.group_layers_by_attn_type = lambda config: ([[0]] * config.groups, [])  # type: ignore[attr-defined]
    name = "transformers.generation.continuous_batching"
    modules = {"torch": mock.MagicMock(), "transformers": transformers, "transformers.generation": ModuleType("g")}
    with mock.patch.dict(sys.modules, {**modules, name: ModuleType("c"), f"{name}.cache": cache}):
        yield image_module("transformers", "continuous")


class Told:
    """A sink of the engine's own stamps."""

    def __init__(self, wanted: bool = True) -> None:
        self.wanted = wanted
        self.stamps: dict[int, list[float]] = {}

    def engine(self, row: int, monotonic_s: list[float]) -> None:
        self.stamps[row] = monotonic_s


@pytest.mark.parametrize(
    ("rows", "prompt", "new", "groups", "blocks"),
    [
        (1, 100, 64, 1, 1),
        (16, 200, 64, 1, 32),  # 264 tokens of each
        (4, 192, 64, 1, 8),  # 256 tokens: the engine takes the next block before the last is full
        (4, 100, 64, 2, 8),
    ],
)
def test_the_cache_holds_every_row_to_its_end(
    continuous: ModuleType, rows: int, prompt: int, new: int, groups: int, blocks: int
) -> None:
    model = Model(groups)
    continuous.ContinuousBatching(model).prepare(rows, prompt, new)
    (config,) = model.made
    assert config.num_blocks == blocks, "left to itself the engine takes nine tenths of the memory"
    assert config.safety_margin == 0.0, "else the last prompts wait for free blocks"
    assert config.max_requests_per_batch == rows
    assert not config.allow_block_sharing
    assert 256 <= config.max_batch_tokens <= 1024


def test_each_shape_has_a_cache_of_its_own_and_close_leaves_none(continuous: ModuleType) -> None:
    model = Model()
    batching = continuous.ContinuousBatching(model)
    batching.prepare(1, 10, 10)
    batching.prepare(4, 10, 10)
    assert [config.num_blocks for config in model.made] == [1, 4]
    before = model.destroyed
    batching.close()
    assert model.destroyed == before + 1
    assert batching.memory() == {}
    assert batching.describe() == {}


def test_a_forced_length_ends_at_no_id_and_a_natural_one_at_those_asked_for(continuous: ModuleType) -> None:
    """``None`` would mean the end of sequence in the model's configuration."""
    model, told = Model(), Told()
    batching = continuous.ContinuousBatching(model)
    batching.prepare(2, 3, 4)
    done = batching.generate([[1, 2, 3], [7]], Decoding(max_new_tokens=4), told)
    assert [list(row.token_ids) for row in done] == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert told.stamps == {0: [0.0, 1.0, 2.0, 3.0], 1: [0.0, 1.0, 2.0, 3.0]}
    batching.generate([[1]], Decoding(max_new_tokens=4, eos_token_ids=(2, 9)), Told(wanted=False))
    assert [call["eos"] for call in model.calls] == [-1, [2, 9]]
    assert [call["record_timestamps"] for call in model.calls] == [True, False]
    assert all(call["persistent_manager"] and call["max_new_tokens"] == 4 for call in model.calls)


@pytest.mark.parametrize(
    ("fails", "lost", "fatal", "words"),
    [
        ({1: "CUDA out of memory"}, (), None, "CUDA out of memory"),
        ({}, (0,), RuntimeError("the thread died"), "the thread died"),
    ],
)
def test_what_the_engine_logs_and_swallows_is_an_error(
    continuous: ModuleType, fails: dict[int, str], lost: tuple[int, ...], fatal: Exception | None, words: str
) -> None:
    model = Model()
    model.fails, model.lost, model.fatal = fails, lost, fatal
    batching = continuous.ContinuousBatching(model)
    batching.prepare(2, 1, 2)
    with pytest.raises(continuous.NotGenerated, match=words):
        batching.generate([[1], [2]], Decoding(max_new_tokens=2), Told())
