"""Scoring: after everything measured, outside every window, and never the end of a cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from worker_material import FAST, Cell, Place, make_workload, random_prompts, write_image

from bench_core.contract.adapter import Adapter
from bench_core.contract.measures.cell import CellResult
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.events import BatchEvent, EndEvent, PhaseEvent, ScoreEvent
from bench_core.contract.records.outcome import STOPPED_ON_REQUEST, Outcome
from bench_core.worker.engine import scoring

MIB = 2**20
COUNTING = """
class Twisted(NullAdapter):
    def score(self, token_ids):
        return [-0.5] * (len(token_ids) - 1)
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.prepared(tmp_path)


def _score(cell: Cell) -> ScoreEvent | None:
    return next((event for event in cell.events() if isinstance(event, ScoreEvent)), None)


def _measure(place: Place, adapter: str, *arguments: str) -> tuple[Cell, Cell]:
    """Cells of batch size 2 and 4 of an adapter."""
    image = write_image(place.root / "image", adapter)
    ran = place.run("--max-new-tokens", "4", "--batch-size", "2,4", "--run-id", "r", *arguments, image=image)
    assert ran.code == 0, ran.err
    return place.cell("r", "twisted.only.b2"), place.cell("r", "twisted.only.b4")


def _engine_started_s(cell: Cell) -> float:
    return next(event.started_s for event in cell.events() if isinstance(event, PhaseEvent))


def test_the_first_cell_scores_the_workloads_first_texts_after_its_batches(place: Place) -> None:
    first, second = _measure(place, COUNTING, "--score-texts", "3")
    texts = random_prompts()[:3]
    score = _score(first)
    assert score is not None
    assert score.texts == (0, 1, 2)
    assert score.digest == prompts_sha256(texts)
    assert score.scored_tokens == tuple(len(text) - 1 for text in texts)
    assert score.log_probability_nat == tuple(-0.5 * (len(text) - 1) for text in texts)
    batches = [event for event in first.events() if isinstance(event, BatchEvent)]
    assert score.started_s >= batches[-1].started_s + batches[-1].latency_s
    assert first.result.metrics.likelihood is not None
    assert first.result.metrics.likelihood.nll_nat_per_token == 0.5
    assert first.result == first.recomputed()
    assert _score(second) is None
    assert (first.spec.protocol.score_texts, second.spec.protocol.score_texts) == (3, 0)
    assert second.result.metrics.likelihood is None
    assert _engine_started_s(second) > _engine_started_s(first), "on a CPU the next cell's memory is its own"


def test_what_scoring_holds_is_in_no_window_of_memory(place: Place) -> None:
    """An engine that takes 300 MiB to score shows none of it in its own cell, and with it given back, none in the
    next."""
    greedy = COUNTING.replace(
        "        return",
        "        block = bytearray(300 << 20)\n        block[::4096] = b'x' * len(block[::4096])\n        return",
    )
    for cell in _measure(place, greedy):
        memory = cell.result.metrics.host_memory
        assert memory is not None
        assert memory.peak_bytes is not None
        assert memory.after_load_bytes is not None
        assert memory.peak_bytes - memory.after_load_bytes < 100 * MIB


def test_a_score_that_fails_costs_only_itself_and_the_next_cell_gets_a_fresh_engine(place: Place) -> None:
    body = "raise MemoryError('no room for logits')"
    first, second = _measure(place, f"class Twisted(NullAdapter):\n    def score(self, token_ids):\n        {body}\n")
    score = _score(first)
    assert score is not None
    assert "MemoryError: no room for logits" in score.cause
    assert score.scored_tokens == ()
    likelihood = first.result.metrics.likelihood
    assert likelihood is not None
    assert (likelihood.nll_nat_per_token, likelihood.cause) == (None, score.cause)
    assert second.verdict.outcome is Outcome.OK
    assert _engine_started_s(second) > _engine_started_s(first)


@dataclass
class Scorer:
    """An adapter of which only the score is used."""

    one: float = -1.0
    more: int = 0
    asked: int = 0

    def score(self, token_ids: list[int]) -> list[float]:
        self.asked += 1
        return [self.one] * (len(token_ids) - 1 + self.more)

    def scored(self, stopping: Callable[[], bool] = lambda: False) -> tuple[ScoreEvent, bool]:
        adapter = cast(Adapter, self)
        return scoring.score(adapter, make_workload(random_prompts()), 4, lambda: 0, stopping)


@pytest.mark.parametrize(
    ("scorer", "cause"),
    [
        (Scorer(more=1), "log-probabilities for"),
        (Scorer(float("nan")), "log-probability nan"),
        (Scorer(0.1), "log-probability 0.1"),
    ],
)
def test_numbers_that_are_no_probabilities_are_a_score_that_failed(scorer: Scorer, cause: str) -> None:
    event, raised = scorer.scored()
    assert cause in event.cause
    assert (event.scored_tokens, raised) == ((), True)


@pytest.mark.parametrize(("way", "word"), [("os.abort()", "SIGABRT"), ("sys.exit(3)", "code 3")])
def test_an_engine_that_dies_over_its_score_has_been_measured_all_the_same(place: Place, way: str, word: str) -> None:
    first, second = _measure(place, f"class Twisted(NullAdapter):\n    def score(self, token_ids):\n        {way}\n")
    assert first.verdict.outcome is Outcome.OK
    score = _score(first)
    assert score is not None
    assert word in score.cause
    assert isinstance(first.events()[-1], EndEvent)
    assert first.result == first.recomputed()
    assert second.verdict.outcome is Outcome.OK
    assert _score(second) is None


def test_an_engine_that_tells_no_probabilities_says_so_and_goes_on(place: Place) -> None:
    assert place.run(*FAST, "--batch-size", "2,4", "--run-id", "r").code == 0
    first, second = (place.cell("r", f"null.scripted.b{size}") for size in (2, 4))
    score = _score(first)
    assert score is not None
    assert score.cause == scoring.NO_SCORE
    assert _engine_started_s(second) == _engine_started_s(first)


def test_nothing_is_scored_where_nothing_is_asked_for(place: Place) -> None:
    first, _ = _measure(place, COUNTING, "--score-texts", "0")
    assert _score(first) is None
    assert isinstance(first.result, CellResult)
    assert first.result.metrics.likelihood is None


def test_a_stop_between_two_texts_ends_the_scoring() -> None:
    """All texts or none: a part of them compares with nothing."""
    scorer = Scorer()
    event, raised = scorer.scored(lambda: scorer.asked == 2)
    assert (event.cause, event.scored_tokens, raised, scorer.asked) == (STOPPED_ON_REQUEST, (), False, 2)
