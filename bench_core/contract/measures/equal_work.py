"""Equal work, as invariants that hold for every batch of every cell: what went in, and how much came out.

The first condition of a number in docs/architecture.md. A cell that breaks one is not compared with others. The worker
refuses most of it while it measures; here the same is read off the events, by whoever holds them.

- Every batch has as many rows as the cell's batch size, and they are consecutive prompts of the workload, in its order.
- The ids that the engine got are those of the workload: the batch's digest and its prompt lengths say so.
- Measured batch k holds the prompts k * batch size and following: none left out, none twice, none in another order.
  Warm-up, latency and direct batches repeat prompts by design and may be any whole batches of the workload.
- Every row of a ``forced`` cell has exactly ``max_new_tokens`` output tokens; every row of a ``natural`` one ends with
  its first end-of-sequence token or at ``max_new_tokens``. Counts are of the engine's ids.
- Cells of one batch size measured the same prompts; where their numbers of batches differ, as far as both went.

Two texts of a dataset may be equal (6000 children's stories are not all different). Such prompts stay: leaving them
out would be another workload, and every cell meets them at the same place. What must be unique is a prompt's index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.events import BatchEvent
from bench_core.contract.records.spec import CellSpec

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Given:
    """What one measured batch was given: indices into the workload, their digest, and their lengths in tokens."""

    prompts: tuple[int, ...]
    digest: str
    prompt_tokens: tuple[int, ...]


@dataclass(frozen=True)
class CellWork:
    """One cell's work without ids and times: the measured batches in order, and which invariants it broke.

    Attributes:
        breaches: one line each, naming the batch and, where it is one, the row.
    """

    cell: str
    batch_size: int
    measured: tuple[Given, ...]
    breaches: tuple[str, ...]


def output_breach(output: Sequence[int], max_new_tokens: int, stops: Collection[int], vocab_size: int) -> str | None:
    """What is wrong with the output ids of one row; ``None`` if nothing is.

    Args:
        stops: ids that end a row; empty for a ``forced`` length.
    """
    if not stops and len(output) != max_new_tokens:
        return f"{len(output)} output tokens instead of exactly {max_new_tokens}"
    if not 1 <= len(output) <= max_new_tokens:
        return f"{len(output)} output tokens, allowed are 1 to {max_new_tokens}"
    if not 0 <= min(output) <= max(output) < vocab_size:
        return f"an output id is outside 0..{vocab_size - 1}"
    if stops and not frozenset(stops).isdisjoint(output[:-1]):
        return "goes on after an end-of-sequence token"
    if stops and len(output) < max_new_tokens and output[-1] not in stops:
        return f"ends after {len(output)} tokens without an end-of-sequence token"
    return None


Known = dict[tuple[int, ...], Given]  # by the indices: what a batch of these prompts is given


def cell_work(
    spec: CellSpec, batches: Iterable[BatchEvent], workload: Prompts | None, known: Known | None = None
) -> CellWork:
    """Checks every batch of one cell, in the order of the log.

    Args:
        workload: the prompts' ids, where they are at hand; without them digests cannot be recomputed, and equal
            indices with unequal digests are all that shows.
        known: what has been computed of ``workload`` for other cells, which were given the same batches; grows.
    """
    known = {} if known is None else known
    stops = frozenset(() if spec.length == "forced" else spec.model.eos_token_ids)
    found: list[str] = []
    measured: list[Given] = []
    digests: dict[tuple[int, ...], str] = {}
    size = spec.batch_size
    for batch in batches:
        if not _is_good(spec, batch, known, stops, size):
            found += [
                f"{batch.phase} batch {batch.index}: {what}"
                for what in _batch_breaches(spec, batch, workload, known, stops)
            ]
        if digests.setdefault(batch.prompts, batch.prompts_digest) != batch.prompts_digest:
            found.append(f"{batch.phase} batch {batch.index}: the same prompts as before have another digest")
        if batch.phase == "measure":
            first = len(measured) * size
            if batch.prompts != tuple(range(first, first + size)):
                found.append(
                    f"measure batch {batch.index}: prompts {_span(batch.prompts)} instead of "
                    f"{_span(range(first, first + size))}"
                )
            measured.append(_given(batch, known))
    return CellWork(spec.cell_id, size, tuple(measured), tuple(found))


def _is_good(spec: CellSpec, batch: BatchEvent, known: Known, stops: frozenset[int], size: int) -> bool:
    """Whether nothing is wrong with a batch, as nearly always; looked at as a whole, of a ``forced`` length and of
    prompts that another cell was given. ``False`` says nothing."""
    rows, outputs = batch.prompts, batch.outputs
    return (
        not stops
        and rows in known
        and _given(batch, known) is known[rows]
        and len(rows) == size
        and not rows[0] % size
        and rows == tuple(range(rows[0], rows[0] + size))
        and rows[-1] < spec.workload.prompts
        and set(batch.output_tokens) == {spec.max_new_tokens}
        and min(map(min, outputs)) >= 0
        and max(map(max, outputs)) < spec.model.vocab_size
    )


def _given(batch: BatchEvent, known: Known) -> Given:
    """One object for all cells that were given the same: of a large run they would fill gigabytes."""
    usual = known.get(batch.prompts)
    if usual is not None and usual.digest == batch.prompts_digest and usual.prompt_tokens == batch.prompt_tokens:
        return usual
    return Given(batch.prompts, batch.prompts_digest, batch.prompt_tokens)


def _batch_breaches(
    spec: CellSpec, batch: BatchEvent, workload: Prompts | None, known: Known, stops: frozenset[int]
) -> Iterable[str]:
    size, rows = spec.batch_size, batch.prompts
    if len(rows) != size:
        yield f"{len(rows)} rows for a batch size of {size}"
    elif rows[0] % size or rows != tuple(range(rows[0], rows[0] + size)):
        yield f"prompts {_span(rows)} are not a batch of the workload in its order"
    if not 0 <= min(rows) <= max(rows) < spec.workload.prompts:
        yield f"a prompt is none of the workload's {spec.workload.prompts}"
    elif workload is not None:
        if rows not in known:
            digest, lengths = prompts_sha256(workload[row] for row in rows), tuple(len(workload[row]) for row in rows)
            known[rows] = Given(rows, digest, lengths)
        lengths = known[rows].prompt_tokens
        if batch.prompts_digest != known[rows].digest:
            yield "the ids given to the engine are not those of the workload's prompts in this order"
        if batch.prompt_tokens != lengths:
            row = next(k for k, pair in enumerate(zip(batch.prompt_tokens, lengths, strict=True)) if pair[0] != pair[1])
            yield f"row {row}: {batch.prompt_tokens[row]} prompt tokens, the workload's prompt has {lengths[row]}"
    for row, output in enumerate(batch.outputs):
        what = output_breach(output, spec.max_new_tokens, stops, spec.model.vocab_size)
        if what is not None:
            yield f"row {row}: {what}"
            return  # one row is reason enough; an engine that miscounts does so in all


def _span(rows: Sequence[int]) -> str:
    """``0 to 3`` for consecutive indices, the indices themselves otherwise, the first eight of them."""
    if len(rows) > 1 and list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return f"{rows[0]} to {rows[-1]}"
    return ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")


def breaches_between(cells: Iterable[CellWork]) -> dict[str, str]:
    """Cells that measured other prompts than the other cells of their batch size: cell to one line.

    Batch by batch, as far as two cells or more went: what most of them were given counts. Where none is in the
    majority, which of them is wrong cannot be told, and all are named.
    """
    found: dict[str, str] = {}
    by_size: dict[int, list[CellWork]] = {}
    for cell in cells:
        by_size.setdefault(cell.batch_size, []).append(cell)
    for group in by_size.values():
        for index in range(max(len(cell.measured) for cell in group)):
            reached = [cell for cell in group if index < len(cell.measured)]
            first = reached[0].measured[index]
            if all(cell.measured[index] is first or cell.measured[index] == first for cell in reached):
                continue
            counts = Counter(cell.measured[index] for cell in reached).most_common()
            usual = counts[0][0] if counts[0][1] > counts[1][1] else None
            for cell in reached:
                if cell.measured[index] != usual:
                    what = f"measure batch {index}: other prompts than in the other cells of this batch size"
                    found.setdefault(cell.cell, what)
    return found


def repeated_prompts(workload: Prompts) -> int:
    """How many prompts are equal to an earlier one."""
    return len(workload) - len({tuple(prompt) for prompt in workload})
