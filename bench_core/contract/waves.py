"""Whether an engine worked on all rows of a batch together, or served the batch in waves: some rows, then the others.

A batch of 64 of which 63 run and one waits until they have ended is no batch size of 64: the last row's decode runs
alone, and the throughput is that of no batch size. Engines do it in silence, by a limit of their own (slots, memory for
keys and values, prompt tokens in one step).

What tells it is when tokens came. A row *began late* if its first token came after the last token of a row that wrote
as many tokens as any of the batch, so that the two never ran together. A row that ended earlier, at an end of sequence,
may have done so while prompts were still read in pieces between decode steps, and nobody waited for it; after such a
row another began late only if none began while others wrote ``WAITED_TOKENS`` tokens.

An engine may read what is longer than the shortest prompt one token a step. It works on all rows in every step,
although a much longer prompt's first token comes when others have ended. It is known by that every row begins exactly
as many steps after a shorter one as its prompt is longer; that is no waiting (``read_stepwise``).

So it is exact where an engine tells each row's tokens, and rows write more than ``WAITED_TOKENS`` of them. It cannot be
told of shorter rows, of an engine that does not tell token times, and of one that tells all of them at once. An engine
whose token times are taken in batches of their own (``separate``) is judged by these.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from pydantic import Field

from bench_core.contract.records.events import Arrivals, BatchEvent
from bench_core.contract.records.record import Record

WAITED_TOKENS = 8
Row = tuple[int, ...]  # when its tokens came, microseconds


class Waves(Record):
    """Of a cell's batches of several rows that tell it.

    Attributes:
        batches: those that could be judged.
        in_waves: those of them in which a row began late.
        rows_late: in the worst of them, the first row that began late and those that began after it.
        rows: of a batch.
        read_stepwise: they began late since their prompts were read one token a step, beside the others' decoding.
    """

    batches: int = Field(ge=1)
    in_waves: int = Field(ge=0)
    rows_late: int = Field(ge=0)
    rows: int = Field(ge=2)
    read_stepwise: bool = False

    @property
    def words(self) -> str:
        """What was seen of rows that waited, in a few words; empty where all ran together."""
        if not self.in_waves or self.read_stepwise:
            return ""
        return (
            f"{self.rows_late} of {self.rows} rows began when others had ended, in {self.in_waves} of {self.batches} "
            f"{'batches' if self.batches > 1 else 'batch'}"
        )


def waves(batches: Iterable[BatchEvent]) -> Waves | None:
    """Of batches of one size; ``None`` where none of them tells."""
    judged = [(b, late) for b in batches if (late := rows_late(b.arrivals, b.output_tokens)) is not None]
    if not judged:
        return None
    in_waves = sum(late > 0 for _, late in judged)
    return Waves(
        batches=len(judged),
        in_waves=in_waves,
        rows_late=max(late for _, late in judged),
        rows=max(len(batch.prompts) for batch, _ in judged),
        read_stepwise=in_waves > 0 and _is_read_stepwise([batch for batch, _ in judged]),
    )


def rows_late(arrivals: Arrivals | None, output_tokens: Sequence[int]) -> int | None:
    """The first row that began late and all that began after it, as a number of rows. ``None`` where that cannot be
    told: no token times, one row, or none of more than ``WAITED_TOKENS`` tokens.

    Args:
        output_tokens: of each row of the batch.
    """
    if arrivals is None or len(output_tokens) < 2 or max(output_tokens) <= WAITED_TOKENS:
        return None
    if arrivals.shared:
        return 0
    rows = sorted(row for row in arrivals.offsets_us if row)
    return next((len(rows) - place for place in range(1, len(rows)) if _is_late(rows, place)), 0)


def _is_late(rows: Sequence[Row], place: int) -> bool:
    """Whether the row at a place began late; rows in the order of their first tokens."""
    before, began = rows[:place], rows[place][0]
    ended = [row for row in before if row[-1] < began]
    if not ended:
        return False
    if max(map(len, ended)) == max(map(len, rows)):
        return True
    return any(len(_moments(row, before[-1][0], began)) >= WAITED_TOKENS for row in before)


def _moments(row: Row, after: int, before: int) -> set[int]:
    """When a row's tokens between two moments came; several of one moment (of one step) are one."""
    return set(row[bisect_right(row, after) : bisect_left(row, before)])


def _is_read_stepwise(batches: Iterable[BatchEvent]) -> bool:
    """Whether every two rows of every batch say so, and two at least that were at work together."""
    told = [pair for batch in batches for pair in _pairs(batch)]
    return all(pair is not False for pair in told) and any(told)


def _pairs(batch: BatchEvent) -> Iterator[bool | None]:
    """Of every two rows, whether the later one begins as many steps after the other as its prompt is longer. ``None``
    where it agrees and says nothing: prompts as long, or the other had ended by then, having written no more tokens
    than that."""
    if batch.arrivals is None or batch.arrivals.shared:
        return
    rows = sorted(zip(batch.arrivals.offsets_us, batch.prompt_tokens, strict=True), key=lambda row: row[0])
    for place, (later, longer) in enumerate(rows):
        for earlier, shorter in rows[:place]:
            more = longer - shorter
            if earlier[-1] < later[0]:
                yield None if more >= len(earlier) else False
                continue
            # Within a step the rows' tokens are told one after the other, the later row's before or after.
            steps = bisect_left(earlier, later[0])
            yield (None if more == 0 else True) if more <= steps <= more + 1 else False
