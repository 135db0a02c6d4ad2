"""Equal work: a cell that did something else than its spec and workload say is named, with the batch that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bench_core.contract.asked.protocol import MeasureProtocol
from bench_core.contract.measures.equal_work import (
    CellWork,
    Known,
    breaches_between,
    cell_work,
    output_breach,
    repeated_prompts,
)
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.events import BatchEvent
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import WorkloadRef

PROMPTS = tuple(tuple(range(10 + k, 13 + k + k % 3)) for k in range(12))
MODEL = ModelInfo(
    name="toy", folder="toy", digest="0" * 64, synthetic=True, architecture="LlamaForCausalLM", dtype="float32",
    parameters=1000, vocab_size=100, context_length=2048, hidden_size=64, intermediate_size=128, layers=2,
    attention_heads=4, kv_heads=2, head_dim=16, tied_embeddings=False, bos_token_id=1, eos_token_ids=(2, 7),
)  # fmt: skip


def spec(batch_size: int = 2, **changes: Any) -> CellSpec:
    """A forced cell of three new tokens."""
    given: dict[str, Any] = {
        "image": "toy", "variant": "only", "label": "toy", "batching": "native", "token_times": "none",
        "batch_size": batch_size, "device": "cpu", "threads": 1, "model": MODEL, "artifact": "none",
        "artifact_digest": None, "options": {}, "max_new_tokens": 3, "length": "forced",
        "protocol": MeasureProtocol(),
        "workload": WorkloadRef(
            name="toy", digest=prompts_sha256(PROMPTS), prompts=len(PROMPTS), longest_prompt_tokens=5
        ),
    }  # fmt: skip
    return CellSpec(**{**given, **changes})


def batch(rows: Sequence[int], phase: str = "measure", index: int = 0, **changes: Any) -> BatchEvent:
    """A batch of these prompts that did what it should."""
    given: dict[str, Any] = {
        "phase": phase, "index": index, "prompts": tuple(rows),
        "prompts_digest": prompts_sha256(PROMPTS[row] for row in rows),
        "prompt_tokens": tuple(len(PROMPTS[row]) for row in rows), "started_s": 1.0, "latency_s": 0.5,
        "outputs": ((3, 4, 5),) * len(rows),
    }  # fmt: skip
    return BatchEvent.model_validate({**given, **changes})


GOOD = [
    batch((10, 11), "warmup"),
    batch((0, 1)),
    batch((2, 3), index=1),
    batch((0, 1), "latency"),
    batch((2, 3), "direct"),
]


def test_equal_work_has_no_breach_and_warm_up_latency_and_direct_batches_repeat_prompts_by_design() -> None:
    work = cell_work(spec(), GOOD, PROMPTS)
    assert work.breaches == ()
    assert [given.prompts for given in work.measured] == [(0, 1), (2, 3)]
    assert cell_work(spec(), GOOD, None).breaches == ()


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (batch((2, 3)), "measure batch 0: prompts 2 to 3 instead of 0 to 1"),
        (batch((1, 0)), "measure batch 0: prompts 1, 0 are not a batch of the workload in its order"),
        (batch((1, 2)), "measure batch 0: prompts 1 to 2 are not a batch of the workload in its order"),
        (batch((0, 0)), "measure batch 0: prompts 0, 0 are not a batch of the workload in its order"),
        (batch((0,)), "measure batch 0: 1 rows for a batch size of 2"),
        (batch((0, 1), prompts_digest="0" * 64), "measure batch 0: the ids given to the engine are not those of"),
        (
            batch((0, 1), prompts_digest=prompts_sha256([PROMPTS[1], PROMPTS[0]])),
            "measure batch 0: the ids given to the engine are not those of",
        ),
        (batch((0, 1), prompt_tokens=(3, 3)), "measure batch 0: row 1: 3 prompt tokens, the workload's prompt has 4"),
        (batch((0, 1), outputs=((3, 4, 5), (3, 4))), "measure batch 0: row 1: 2 output tokens instead of exactly 3"),
        (batch((0, 1), outputs=((3, 4, 5, 6), (3, 4, 5))), "measure batch 0: row 0: 4 output tokens instead of"),
        (batch((0, 1), outputs=((3, 4, 100), (3, 4, 5))), "measure batch 0: row 0: an output id is outside 0..99"),
    ],
)  # fmt: skip
def test_each_breach_is_named_with_its_batch(bad: BatchEvent, what: str) -> None:
    alone = cell_work(spec(), [bad], PROMPTS).breaches
    assert alone[0].startswith(what)
    # Beside a cell that was given the same and did what it should.
    known: Known = {}
    cell_work(spec(), GOOD, PROMPTS, known)
    assert cell_work(spec(), [bad], PROMPTS, known).breaches == alone


def test_a_spec_of_a_smaller_workload_is_a_breach_beside_one_of_the_whole() -> None:
    known: Known = {}
    cell_work(spec(), GOOD, PROMPTS, known)
    smaller = spec(workload=spec().workload.model_copy(update={"prompts": 1}))
    assert "a prompt is none of the workload's 1" in cell_work(smaller, [batch((0, 1))], PROMPTS, known).breaches[0]


def test_a_prompt_beyond_the_workload_is_a_breach_and_no_crash() -> None:
    beyond = BatchEvent.model_validate({**batch((10, 11), "warmup").model_dump(), "prompts": (12, 13)})
    assert "a prompt is none of the workload's 12" in cell_work(spec(), [beyond], PROMPTS).breaches[0]


def test_a_measured_batch_given_twice_is_a_breach() -> None:
    """Prompts are unique within a cell: each index of the workload is measured at most once."""
    (breach,) = cell_work(spec(), [batch((0, 1)), batch((0, 1), index=1)], PROMPTS).breaches
    assert breach == "measure batch 1: prompts 0 to 1 instead of 2 to 3"


def test_a_left_out_batch_is_a_breach() -> None:
    (breach,) = cell_work(spec(), [batch((0, 1)), batch((4, 5), index=1)], PROMPTS).breaches
    assert breach == "measure batch 1: prompts 4 to 5 instead of 2 to 3"


def test_without_the_workload_the_same_prompts_must_have_the_same_digest() -> None:
    changed = [batch((0, 1), "warmup"), batch((0, 1), prompts_digest="0" * 64)]
    (breach,) = cell_work(spec(), changed, None).breaches
    assert breach == "measure batch 0: the same prompts as before have another digest"


@pytest.mark.parametrize(
    ("output", "what"),
    [
        ((3, 4, 5), None),
        ((3, 2), None),
        ((7,), None),
        ((3, 4, 2), None),
        ((), "0 output tokens, allowed are 1 to 3"),
        ((3, 4, 5, 6), "4 output tokens, allowed are 1 to 3"),
        ((3, 4), "ends after 2 tokens without an end-of-sequence token"),
        ((2, 3, 4), "goes on after an end-of-sequence token"),
        ((3, -1, 2), "an output id is outside 0..99"),
    ],
)
def test_a_natural_row_ends_with_its_first_end_of_sequence_token_or_at_the_limit(
    output: tuple[int, ...], what: str | None
) -> None:
    assert output_breach(output, 3, (2, 7), 100) == what


def work(cell: str, *digests: str, batch_size: int = 2) -> CellWork:
    """A cell whose measured batches got prompts of these digests."""
    batches = [batch((2 * k, 2 * k + 1), index=k, prompts_digest=digest * 64) for k, digest in enumerate(digests)]
    made = cell_work(spec(batch_size), batches, None)
    return CellWork(cell, batch_size, made.measured, made.breaches)


def test_cells_of_a_batch_size_that_went_different_lengths_agree_as_far_as_both_went() -> None:
    assert breaches_between([work("a", "1", "2", "3"), work("b", "1"), work("c", "1", "2")]) == {}


def test_the_cell_that_measured_other_prompts_is_named_and_not_the_others() -> None:
    found = breaches_between([work("a", "1", "2"), work("b", "1", "9"), work("c", "1", "2")])
    assert found == {"b": "measure batch 1: other prompts than in the other cells of this batch size"}


def test_where_no_cell_is_in_the_majority_all_are_named() -> None:
    assert set(breaches_between([work("a", "1"), work("b", "2")])) == {"a", "b"}


def test_other_batch_sizes_are_not_compared() -> None:
    assert breaches_between([work("a", "1"), work("b", "2", batch_size=4)]) == {}


def test_equal_texts_of_a_dataset_are_counted() -> None:
    assert repeated_prompts([(1, 2), (3,), (1, 2), (1, 2)]) == 2
    assert repeated_prompts([(1, 2), (2, 1)]) == 0
