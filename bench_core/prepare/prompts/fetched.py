"""Texts of a hub's dataset, kept as they were fetched: later runs need no network and read the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from bench_core.contract.records import layout
from bench_core.contract.records.digest import text_sha256
from bench_core.contract.records.prompt_source import PromptSource
from bench_core.contract.records.record import Record
from bench_core.prepare.prompts.columns import Texts
from bench_core.prepare.prompts.sources import Selection, hub_texts, local_texts
from bench_core.prepare.staging import Progress, disk_errors
from bench_core.system.files import write_file

FETCHED_FOLDER = "datasets"
# Files of before the rule said which column they hold are not read again: it may be an id.
_RULE = 2


class Fetched(Record):
    """What was fetched of one split: texts in order, blank ones too, and what they are of its rows."""

    schema_version: Literal[1] = 1
    source: PromptSource
    texts: tuple[str, ...]

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]  # not the record's fields
        return iter(self.texts)


def texts(selection: Selection, data_root: Path, progress: Progress) -> Texts:
    """Texts of a dataset in its order; blank ones too. ``samples`` bounds only what is fetched from the hub.

    Raises:
        BadInput: it cannot be read; while iterating as well.
        OSError: a local file cannot be opened.
    """
    local = local_texts(selection, progress)
    return local if local is not None else _fetched(selection, data_root, progress)


def _fetched(selection: Selection, data_root: Path, progress: Progress) -> Texts:
    dataset, split = selection.dataset, selection.split
    key = text_sha256(json.dumps([_RULE, dataset, split, selection.column, selection.samples]))[:12]
    kept = data_root / FETCHED_FOLDER / f"{layout.slug(f'{dataset}-{split}')}-{key}.json"
    if kept.is_file():
        progress(f"dataset {dataset}: already fetched ({kept.name})")
        return Fetched.read(kept)
    progress(f"dataset {dataset}: fetching split {split} from the Hugging Face hub")
    found = hub_texts(selection)
    rows = tuple(_until(found, selection.samples))
    fetched = Fetched(source=found.source, texts=rows)
    with disk_errors(data_root):
        write_file(kept, (fetched.model_dump_json() + "\n").encode())
    return fetched


def _until(rows: Iterable[str], samples: int | None) -> Iterator[str]:
    """Rows up to and with the ``samples``-th that is not blank."""
    full = 0
    for row in rows:
        if samples is not None and full >= samples:
            return
        yield row
        full += bool(row.strip())
        if full == samples:
            return
