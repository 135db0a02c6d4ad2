"""Prompts as token ids: read in order, tokenised once with the model's tokenizer, written with their digest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydantic import Field

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.prompt_source import PromptSource
from bench_core.contract.records.record import Record
from bench_core.contract.records.workload import SEEDS, Workload, order_words, shuffled_order
from bench_core.prepare.prompts.embedded import EMBEDDED
from bench_core.prepare.prompts.fetched import texts
from bench_core.prepare.prompts.sources import Selection, dataset_name, local_path
from bench_core.prepare.prompts.tokenizer import PromptTokenizer
from bench_core.prepare.staging import Progress, disk_errors, quiet
from bench_core.system.files import write_file


class WorkloadRequest(Record):
    """Which prompts to measure with.

    Attributes:
        dataset: ``embedded``; a local path; or a hub id. What exists as a path is a path. Forms of files and folders
            are those of docs/models-and-data.md.
        split: of a hub dataset or of a local one that has several.
        text_column: column of the prompts; if not given, found out by the rule of
            :mod:`bench_core.prepare.prompts.columns`.
        samples: prompts to take from the front, not counting empty texts; ``None`` for all.
        max_prompt_tokens: longer prompts lose tokens at their beginning; special tokens there (BOS) stay.
        sample_seed: the prompts taken are shuffled once with it, so that the batches that a cell measures are a random
            sample of all; ``None`` keeps the dataset's order.
    """

    dataset: str = "roneneldan/TinyStories"
    split: str = "validation"
    text_column: str | None = None
    samples: int | None = Field(None, ge=1)
    max_prompt_tokens: int = Field(gt=0)
    sample_seed: int | None = Field(None, ge=0, lt=SEEDS)


@dataclass(frozen=True)
class _Tokenised:
    prompts: tuple[tuple[int, ...], ...]
    truncated: int
    dropped_empty: int


@dataclass(frozen=True)
class Survey:
    """What a local dataset will give: how many prompts, and which part of it they are."""

    prompts: int
    source: PromptSource


def survey_workload(request: WorkloadRequest) -> Survey | None:
    """Reads a local dataset as far as it will be needed, so that what is wrong with it shows before anything is made.

    Returns:
        ``None`` for a dataset of the hub, which is not asked.

    Raises:
        BadInput: as :func:`prepare_workload` for a source that cannot be read or holds no prompt.
    """
    if request.dataset != EMBEDDED and local_path(request.dataset) is None:
        return None
    selection = Selection(request.dataset, request.split, request.text_column, request.samples)
    with _reading(request):
        read = texts(selection, Path(), quiet)
        found = sum(1 for _text in islice((text for text in read if text.strip()), request.samples))
    if not found:
        raise _no_prompt(request)
    return Survey(found, read.source)


def prepare_workload(
    request: WorkloadRequest, tokenizer: PromptTokenizer, data_root: Path, progress: Progress = quiet
) -> tuple[Path, Workload]:
    """Makes ``data_root/workloads/<name>-<digest>.json``; a whole file of the same content is used as it stands.

    ``progress`` is told what a reader of the numbers should know: fewer prompts than asked for, texts truncated,
    dropped or repeated.

    Raises:
        BadInput: a source that cannot be read, no prompt in it, or a folder that cannot be written.
    """
    selection = Selection(request.dataset, request.split, request.text_column, request.samples)
    with _reading(request):
        read = texts(selection, data_root, progress)
        done = _tokenise(read, tokenizer, request)
    if not done.prompts:
        raise _no_prompt(request)
    prompts = done.prompts
    if request.sample_seed is not None:
        prompts = tuple(prompts[place] for place in shuffled_order(len(prompts), request.sample_seed))
    workload = Workload(
        name=dataset_name(request.dataset, request.split),
        tokenizer=tokenizer.digest,
        max_prompt_tokens=request.max_prompt_tokens,
        truncated=done.truncated,
        dropped_empty=done.dropped_empty,
        duplicates=len(prompts) - len(set(prompts)),
        digest=prompts_sha256(prompts),
        sample_seed=request.sample_seed,
        prompt_source=read.source,
        prompts=prompts,
    )
    path = put_workload(workload, data_root)
    for remark in _remarks(workload, request):
        progress(f"workload {workload.name}: {remark}")
    return path, workload


def put_workload(workload: Workload, data_root: Path) -> Path:
    """The workload's file under ``data_root``, written unless it is there and whole.

    Raises:
        BadInput: the folder cannot be written.
    """
    path = data_root / layout.WORKLOADS_FOLDER / f"{layout.slug(workload.name)}-{workload.digest[:12]}.json"
    if not _holds(path, workload):
        with disk_errors(data_root):
            write_file(path, (workload.model_dump_json() + "\n").encode())
    return path


def read_workload(path: Path) -> Workload:
    """Reads a workload file and checks its digest.

    Raises:
        BadInput: missing, damaged, or not a workload.
    """
    return Workload.read(path)


@contextmanager
def _reading(request: WorkloadRequest) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(f"{error.filename or request.dataset}: {error.strerror or error}") from error


def _no_prompt(request: WorkloadRequest) -> BadInput:
    return BadInput(f"{request.dataset}: an empty dataset: no text in it", "give one that holds some prompts")


def _tokenise(rows: Iterable[str], tokenizer: PromptTokenizer, request: WorkloadRequest) -> _Tokenised:
    prefix = tokenizer.prefix_tokens
    limit = request.max_prompt_tokens
    if limit <= prefix:
        raise BadInput(
            f"max_prompt_tokens is {limit}, but the tokenizer puts {prefix} special tokens first",
            f"use at least {prefix + 1}",
        )
    prompts: list[tuple[int, ...]] = []
    truncated = dropped = 0
    for text in rows:
        ids = tokenizer.encode(text) if text.strip() else []
        if len(ids) <= prefix:
            dropped += 1
            continue
        if len(ids) > limit:
            truncated += 1
            ids = ids[:prefix] + ids[len(ids) - (limit - prefix) :]
        prompts.append(tuple(ids))
        if len(prompts) == request.samples:
            break
    return _Tokenised(tuple(prompts), truncated, dropped)


def _holds(path: Path, workload: Workload) -> bool:
    try:
        return read_workload(path) == workload
    except BadInput:
        return False


def _remarks(workload: Workload, request: WorkloadRequest) -> list[str]:
    found = len(workload.prompts)
    remarks = [
        f"{found} prompts, the longest of {workload.longest} tokens, {order_words(workload.sample_seed)}, "
        f"digest {workload.digest[:12]}"
    ]
    if workload.prompt_source is not None:
        remarks.append(f"prompts are {workload.prompt_source.words}")
    if request.samples is not None and found < request.samples:
        remarks.append(f"{request.samples} prompts were asked for, but the dataset has only {found}")
    if workload.truncated:
        remarks.append(f"{workload.truncated} cut from the left to {workload.max_prompt_tokens} tokens")
    if workload.dropped_empty:
        remarks.append(f"{workload.dropped_empty} empty texts left out")
    if workload.duplicates:
        remarks.append(f"{workload.duplicates} prompts repeat an earlier one")
    return remarks
