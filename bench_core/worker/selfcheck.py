"""The contract suite: what every adapter promises, checked on the image itself with a real (small) model.

Each check is a function with a docstring that states the promise. A failure that ``image.yaml`` declares under
``known_failures`` is recorded with its reason; one that is declared and does not occur is a failure of the
declaration, unless it is declared to come and go.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench_core.contract.adapter import Adapter, Decoding, Describes, Scores
from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.asked.options import Value
from bench_core.contract.errors import first_line
from bench_core.contract.records.events import Arrivals, EndEvent
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.contract.waves import rows_late
from bench_core.system.nvml import reader_of
from bench_core.worker.engine.clock import monotonic_ns, seconds
from bench_core.worker.engine.failure import classify
from bench_core.worker.engine.guard import PromptRefused, check_arrivals, check_prompts, checked_outputs
from bench_core.worker.engine.image import load_adapter, load_model
from bench_core.worker.engine.job import Channel, CheckEvent, Job
from bench_core.worker.engine.sink import StampingSink
from bench_core.worker.sample.sampler import descendants, rss_bytes

NEW_TOKENS = 16
_FREED_SLACK_BYTES = 64 * 1024 * 1024
_MAY_WRITE = ("/dev/", "/proc/", tempfile.gettempdir() + "/", "/tmp/", "/results/")  # noqa: S108  # places, not files

Outputs = tuple[tuple[int, ...], ...]


class CheckFailed(AssertionError):
    """A promise is broken; the text says how."""


@dataclass
class Recorded:
    """A check that passed with something to tell."""

    detail: str


@dataclass
class Bench:
    """An adapter on the bench: loads, prepares and generates with the worker's own checks around it."""

    job: Job
    manifest: Manifest
    spec: CellSpec
    workload: Workload
    written: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    adapter: Adapter | None = None
    _shape: tuple[int, int, int] | None = None

    def load(self) -> Adapter:
        """A freshly loaded adapter."""
        adapter = load_adapter(self.job.image_folder, self.manifest, self.spec.gpus)
        variant = self.manifest.variant(self.spec.variant, self.spec.options, self.spec.device)
        watched = replace(variant, options=_Watched(variant.options, self.asked))
        load_model(adapter, self.job.artifact, watched, self.spec)
        self.adapter, self._shape = adapter, None
        return adapter

    def close(self) -> None:
        """Closes and forgets the adapter."""
        if self.adapter is not None:
            self.adapter.close()
        self.adapter, self._shape = None, None
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed heap; only what an engine still holds may count

    def generate(
        self, prompts: Sequence[Sequence[int]], new_tokens: int = NEW_TOKENS, eos: tuple[int, ...] = ()
    ) -> tuple[Outputs, Arrivals | None]:
        """One batch, as the worker would run it; prepares the shape where it differs from the last."""
        adapter = self.adapter or self.load()
        longest = self.workload.longest
        check_prompts(prompts, len(prompts), longest, self.spec.model.vocab_size)
        shape = (len(prompts), longest, new_tokens)
        if shape != self._shape:
            adapter.prepare(*shape)
            self._shape = shape
        decoding = Decoding(new_tokens, eos, self.spec.model.pad_token_id)
        sink = StampingSink(len(prompts), monotonic_ns, self.manifest.token_times != "none")
        started = monotonic_ns()
        completions = adapter.generate([list(prompt) for prompt in prompts], decoding, sink)
        outputs = checked_outputs(completions, len(prompts), decoding, self.spec.model.vocab_size)
        return outputs, sink.arrivals(started)

    def three(self) -> list[list[int]]:
        """Three prompts of unequal length from the workload: the shortest, one in the middle, the longest."""
        ordered = sorted((list(prompt) for prompt in self.workload.prompts), key=len)
        three = [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
        if len(three[0]) == len(three[2]) and len(three[0]) > 1:
            three[0] = three[0][: len(three[0]) // 2]
        return three


class _Watched(Mapping[str, Value]):
    """Options that note which of them are asked for."""

    def __init__(self, options: Mapping[str, Value], asked: set[str]) -> None:
        self._options = options
        self._asked = asked

    def __getitem__(self, name: str) -> Value:
        self._asked.add(name)
        return self._options[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)


Check = Callable[[Bench], Recorded | None]


def forced_length(bench: Bench) -> None:
    """A batch of 1 and of 3 unequal prompts gives token ids, exactly as many as asked for."""
    for new_tokens in (1, NEW_TOKENS):
        bench.generate(bench.three()[:1], new_tokens)
        bench.generate(bench.three(), new_tokens)


def repeatable(bench: Bench) -> None:
    """The same batch twice gives the same ids: nothing of the first is left behind."""
    first, _ = bench.generate(bench.three())
    second, _ = bench.generate(bench.three())
    if first != second:
        raise CheckFailed("the second run of the same batch differs from the first")


def shape_can_change(bench: Bench) -> None:
    """After a batch of 3 was prepared and run, a batch of 1 gives what it gave before."""
    prompt = bench.three()[:1]
    before, _ = bench.generate(prompt)
    bench.generate(bench.three())
    after, _ = bench.generate(prompt)
    if before != after:
        raise CheckFailed("a batch of 1 differs after the shape has changed and come back")


def order_kept(bench: Bench) -> None:
    """Outputs come in prompt order: each row resembles its own prompt's output most."""
    prompts = bench.three()
    alone = [bench.generate([prompt])[0][0] for prompt in prompts]
    for order in ((0, 1, 2), (2, 0, 1)):
        outputs, _ = bench.generate([prompts[k] for k in order])
        for place, row in enumerate(outputs):
            own = _common(row, alone[order[place]])
            best = max(_common(row, other) for other in alone)
            if own < best:
                raise CheckFailed(f"order {order}: row {place} is another prompt's output")


def alone_and_in_batch(bench: Bench) -> Recorded | None:
    """A prompt alone and in a batch gives the same greedy output; where rounding makes it differ, that is recorded.

    Rounding seldom changes the very first token. Padding or positions gone wrong change it in every row but the
    longest, into what no prompt of the batch gives (another prompt's output is ``order_kept``'s business).
    """
    prompts = bench.three()
    together, _ = bench.generate(prompts)
    alone = [bench.generate([prompt])[0][0] for prompt in prompts]
    deviations, like_none = [], 0
    for row, (own, output) in enumerate(zip(alone, together, strict=True)):
        common = _common(own, output)
        if common < len(own):
            deviations.append(f"row {row} from token {common}")
            like_none += not any(_common(other, output) for other in alone)
    if like_none >= len(prompts) - 1:
        raise CheckFailed(f"{like_none} of {len(prompts)} rows are like no prompt's output from the first token on")
    return Recorded("differs: " + ", ".join(deviations)) if deviations else None


def eos_stop(bench: Bench) -> Recorded | None:
    """In natural mode a row ends with its first end-of-sequence id, which counts, and other rows go on.

    Until the first row leaves, the batch is the forced one and must give the same ids. After that rounding may differ
    with the batch's size, as in ``alone_and_in_batch``; that is recorded.
    """
    prompts = bench.three()
    forced, _ = bench.generate(prompts)
    # A token that the first row really produces serves as end of sequence: so this works with any model.
    eos = forced[0][NEW_TOKENS // 2]
    outputs, _ = bench.generate(prompts, eos=(eos,))
    ends = [full.index(eos) + 1 if eos in full else len(full) for full in forced]
    deviations = []
    for row, (full, end, output) in enumerate(zip(forced, ends, outputs, strict=True)):
        same = _common(output, full[:end])
        if same < min(ends) or (same == end and len(output) != end):
            raise CheckFailed(f"row {row}: {len(output)} tokens, expected the first {end} of the forced output")
        if same < end:
            deviations.append(f"row {row} from token {same}")
    return Recorded("differs after a row has left: " + ", ".join(deviations)) if deviations else None


def token_times(bench: Bench) -> None:
    """Every output token is reported exactly once, in forced and in natural mode."""
    if bench.manifest.token_times == "none":
        return
    prompts = bench.three()
    forced, arrivals = bench.generate(prompts)
    check_arrivals(arrivals, forced)
    natural, arrivals = bench.generate(prompts, eos=(forced[0][NEW_TOKENS // 2],))
    check_arrivals(arrivals, natural)


def rows_run_together(bench: Bench) -> Recorded | None:
    """No row's first token waits for another row's last: of prompts as long, at the job's batch size or three rows."""
    longer = [list(prompt) for prompt in bench.workload.prompts if 2 * len(prompt) >= bench.workload.longest]
    rows = range(max(3, bench.spec.batch_size))
    prompts = [longer[row % len(longer)][: min(map(len, longer))] for row in rows]
    try:
        outputs, arrivals = bench.generate(prompts)
    except Exception as error:
        outcome, cause = classify(error, "generate", bench.adapter)
        if outcome is not Outcome.OOM_KV:
            raise
        bench.close()
        return Recorded(f"not known: no memory for {len(prompts)} rows: {cause}")
    late = rows_late(arrivals, [len(row) for row in outputs])
    if late is None:
        return Recorded("not known: the engine tells no token times")
    words = f"{late} of {len(prompts)} rows began when others had ended"
    if late and bench.manifest.batching == "native":
        raise CheckFailed(words)
    return Recorded(f"{words}, as declared") if late else None


def prompts_refused(bench: Bench) -> None:
    """Empty and over-long prompts are refused before the engine sees them, and the engine works on afterwards."""
    too_long = [0] * (bench.workload.longest + 1)
    for bad, word in (([], "empty"), (too_long, "prepared for at most"), ([bench.spec.model.vocab_size], "outside")):
        try:
            bench.generate([bad])
        except PromptRefused as refusal:
            if word not in str(refusal):
                raise CheckFailed(f"the refusal does not say why: {refusal}") from refusal
        else:
            raise CheckFailed(f"a prompt that is {word!r} was taken")
    bench.generate(bench.three()[:1])


def facts(bench: Bench) -> None:
    """``describe`` gives texts, where the adapter has it."""
    adapter = bench.adapter or bench.load()
    if isinstance(adapter, Describes) and not all(
        isinstance(key, str) and isinstance(value, str) for key, value in adapter.describe().items()
    ):
        raise CheckFailed("describe() gives something else than texts")


def scores(bench: Bench) -> None:
    """``score`` gives one log-probability, finite and not above 0, for every token but the first."""
    adapter = bench.adapter or bench.load()
    if isinstance(adapter, Scores):
        prompt = bench.three()[-1]
        values = [float(value) for value in adapter.score(prompt)]
        if len(values) != len(prompt) - 1:
            raise CheckFailed(f"{len(values)} values for {len(prompt)} tokens")
        if any(not math.isfinite(value) or value > 1e-4 for value in values):
            raise CheckFailed("a value is not a log-probability")


def close_frees_memory(bench: Bench) -> None:
    """After ``close`` memory is back: three times load, generate, close do not grow beyond a tenth of the model."""
    artifact_bytes = sum(path.stat().st_size for path in bench.job.artifact.rglob("*") if path.is_file())
    allowed = max(_FREED_SLACK_BYTES, artifact_bytes // 10)
    gpu = reader_of(bench.spec.cards)
    readings: list[tuple[int, int]] = []
    bench.close()  # the model of the earlier checks: a device that holds one must be enough
    for _ in range(3):
        bench.load()
        bench.generate(bench.three()[:1])
        bench.close()
        readings.append((_own_rss_bytes(), gpu.used_bytes() or 0 if gpu else 0))
    for kind, first, last in (("host", readings[0][0], readings[2][0]), ("GPU", readings[0][1], readings[2][1])):
        if last - first > allowed:
            raise CheckFailed(
                f"{kind} memory after close grew by {last - first} bytes from the first to the third time"
            )


def options_are_declared(bench: Bench) -> None:
    """The adapter reads the options that ``image.yaml`` declares for this device: all of them, and no other."""
    if bench.adapter is None:  # else the checks before have let it load and generate
        bench.generate(bench.three())
    declared = set(bench.manifest.options_on(bench.spec.device).defaults)
    if bench.asked - declared:
        raise CheckFailed(f"reads what image.yaml does not declare: {', '.join(sorted(bench.asked - declared))}")
    unread = declared - bench.asked - bench.manifest.server_options
    if unread:
        raise CheckFailed(f"never reads what image.yaml declares: {', '.join(sorted(unread))}")


def writes_nothing(bench: Bench) -> None:
    """No file is opened for writing outside temporary and results folders (the read-only root is the wall)."""
    if bench.written:
        raise CheckFailed(f"wrote to {', '.join(sorted(set(bench.written))[:3])}")


CHECKS: tuple[Check, ...] = (
    forced_length,
    repeatable,
    shape_can_change,
    order_kept,
    alone_and_in_batch,
    eos_stop,
    token_times,
    rows_run_together,
    prompts_refused,
    facts,
    scores,
    options_are_declared,
    close_frees_memory,
    writes_nothing,
)


def run(job: Job, channel: Channel) -> None:
    """Runs all checks on the image of a job, reports each, and says when all are done."""
    manifest = Manifest.load(job.image_folder)
    bench = Bench(job, manifest, job.cells[0], Workload.read(job.workload))
    _watch_writes(bench.written)
    for check in CHECKS:
        channel.send(judge(check, bench))
    bench.close()
    channel.send(EndEvent(t_s=seconds(monotonic_ns()), outcome=Outcome.OK))


def judge(check: Check, bench: Bench) -> CheckEvent:
    """Runs one check and weighs it against the declared known failures."""
    name = check.__name__
    known = next(
        (
            failure
            for failure in bench.manifest.known_failures
            if failure.check == name
            and (not failure.variants or bench.spec.variant in failure.variants)
            and (not failure.devices or bench.spec.device in failure.devices)
        ),
        None,
    )
    try:
        recorded = check(bench)
    except Exception as error:  # noqa: BLE001  # whatever it raises, the check has failed
        if known is not None:
            detail = f"known failure: {known.reason} ({first_line(error)})"
            return CheckEvent(name=name, outcome="recorded", detail=detail)
        return CheckEvent(name=name, outcome="failed", detail=first_line(error))
    if known is not None and not known.sometimes:
        return CheckEvent(name=name, outcome="failed", detail="declared as a known failure, but it passes: remove it")
    if recorded is not None:
        return CheckEvent(name=name, outcome="recorded", detail=recorded.detail)
    return CheckEvent(name=name, outcome="passed")


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next((k for k, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _own_rss_bytes() -> int:
    return rss_bytes(descendants(int(Path("/proc/self").readlink().name))) or 0


def _watch_writes(written: list[str]) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open":
            return
        path, mode, flags = arguments  # open() tells a mode and flags, os.open() flags alone
        writes = bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_RDWR))
        if not writes or not isinstance(path, str | bytes):
            return
        absolute = str(Path(os.fsdecode(path)).absolute())
        allowed = f"{absolute}/".startswith(_MAY_WRITE)  # unnamed temporary files are opened by their folder's name
        if not allowed and "/__pycache__/" not in absolute:  # which is Python's own, where an image does not forbid it
            written.append(absolute)

    sys.addaudithook(hook)
