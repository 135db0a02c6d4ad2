"""Batches that an engine served in waves are told from those that it worked on as a whole, by when tokens came."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench_core.contract.records.events import Arrivals, BatchEvent
from bench_core.contract.waves import WAITED_TOKENS, Waves, rows_late, waves

STEP_US = 1000


def row(first: int, tokens: int, every: int = 1) -> tuple[int, ...]:
    """A row whose first token comes in this step, and one more in each ``every``-th after it."""
    return tuple((first + every * token) * STEP_US for token in range(tokens))


def batch(rows: Sequence[tuple[int, ...]], prompt_tokens: Sequence[int] = (), *, told: bool = True) -> BatchEvent:
    lengths = tuple(prompt_tokens) or (10,) * len(rows)
    arrivals = Arrivals(source="worker", shared=False, offsets_us=tuple(rows))
    return BatchEvent(
        phase="measure", index=0, prompts=tuple(range(len(rows))), prompts_digest="0" * 64, prompt_tokens=lengths,
        started_s=0.0, latency_s=1.0, outputs=tuple((5,) * len(r) for r in rows), arrivals=arrivals if told else None,
    )  # fmt: skip


def late(rows: Sequence[tuple[int, ...]], prompt_tokens: Sequence[int] = ()) -> int | None:
    found = batch(rows, prompt_tokens)
    return rows_late(found.arrivals, found.output_tokens)


def test_one_row_that_waits_until_63_have_ended() -> None:
    """Seen of a server with 64 slots, whose step of 8192 prompt tokens cut one prompt in two."""
    together = [row(k // 32, 200) for k in range(63)]
    found = waves([batch([*together, row(203, 200)]), batch([*together, row(1, 200)])])
    assert found == Waves(batches=2, in_waves=1, rows_late=1, rows=64)
    assert found.words == "1 of 64 rows began when others had ended, in 1 of 2 batches"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([row(0, 20)] * 4, 0, id="all together"),
        pytest.param([row(k, 20) for k in range(4)], 0, id="prompts read one after the other"),
        pytest.param([row(19, 20), row(0, 20)], 0, id="one step in common"),
        pytest.param([row(20 * k, 20) for k in range(4)], 3, id="one after the other"),
        pytest.param([row(0, 20), row(0, 20), row(21, 20), row(21, 20)], 2, id="two and two"),
        pytest.param([row(0, WAITED_TOKENS), row(50, WAITED_TOKENS)], None, id="too short to tell"),
        pytest.param([row(0, WAITED_TOKENS + 1), row(50, WAITED_TOKENS + 1)], 1, id="just long enough"),
        pytest.param([row(0, 20)], None, id="one row"),
    ],
)
def test_rows_of_one_length(rows: Sequence[tuple[int, ...]], expected: int | None) -> None:
    assert late(rows) == expected
    assert late(rows[::-1]) == expected, "the order of the rows says nothing"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([row(0, 2), row(0, 30), row(3, 30)], 0, id="ended by itself while prompts were read"),
        pytest.param([row(0, 3), row(0, 30), row(WAITED_TOKENS + 1, 30)], 1, id="a slot that had to become free"),
        pytest.param([row(0, 12), row(13, 30), row(44, 20)], 2, id="one after the other"),
        pytest.param([row(0, 1), row(0, 1), row(1, 1)], None, id="a token each"),
        pytest.param([row(0, 2), row(0, 30, every=2), row(17, 30)], 1, id="tokens in pairs of steps"),
    ],
)
def test_rows_that_end_by_themselves(rows: Sequence[tuple[int, ...]], expected: int | None) -> None:
    assert late(rows) == expected


def stepwise(prompts: Sequence[int], tokens: int) -> BatchEvent:
    """Read at once as far as all prompts go, the rest of the longer ones one token a step."""
    return batch([row(length - min(prompts), tokens) for length in prompts], prompts)


def test_long_prompts_that_are_read_beside_others_decoding_are_no_waves() -> None:
    found = waves([stepwise((10, 15, 30, 90), 20), stepwise((12, 12, 13, 14), 20)])
    assert found is not None
    assert (found.in_waves, found.rows_late, found.read_stepwise, found.words) == (1, 2, True, "")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(batch([row(20 * k, 20) for k in range(3)], (10, 10, 10)), id="no longer prompt"),
        pytest.param(batch([row(0, 20), row(2, 20), row(40, 20)], (10, 15, 90)), id="begun at another step"),
    ],
)
def test_one_batch_that_agrees_with_it_excuses_no_other(other: BatchEvent) -> None:
    found = waves([stepwise((10, 15, 30, 90), 20), other])
    assert found is not None
    assert found.words


def test_two_rows_one_after_the_other_are_not_excused_by_their_lengths_alone() -> None:
    found = waves([batch([row(0, 20), row(40, 20)], (10, 50))])
    assert found is not None
    assert found.words


def test_what_is_not_told_is_not_judged() -> None:
    assert waves([batch([row(0, 20), row(40, 20)], told=False)]) is None
    assert waves([]) is None
    shared = Arrivals(source="worker", shared=True, offsets_us=(row(0, 20),))
    assert rows_late(shared, [20, 20]) == 0
    assert rows_late(shared, [20]) is None
