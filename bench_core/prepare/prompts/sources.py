"""Where prompts come from: the embedded ones, local files and folders, or a dataset of the Hugging Face hub.

A source gives texts in its own order and may be long: readers take what they need. What cannot be read raises
:class:`BadInput` that names the file and, where there are lines, the line. Files and folders take the same forms
(:mod:`bench_core.prepare.prompts.files`), and all sources choose the column by one rule
(:mod:`bench_core.prepare.prompts.columns`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.records.prompt_source import PromptSource, Taken
from bench_core.prepare.hub import hub_errors, is_hub_id
from bench_core.prepare.prompts.columns import Prompts, Row, Texts
from bench_core.prepare.prompts.embedded import EMBEDDED, embedded_lines
from bench_core.prepare.prompts.files import FORMS, form_of, json_lines, rows_of, text_lines
from bench_core.prepare.prompts.folders import data_files, files_of_split, plain_texts
from bench_core.prepare.staging import Progress

SUPPORTED = f"a dataset is embedded, a hub id, {FORMS}, or a folder of such files"


@dataclass(frozen=True)
class Selection:
    """Which texts: of a dataset, its split and column (``None``: found out), and how many from its front."""

    dataset: str
    split: str
    column: str | None = None
    samples: int | None = None


@dataclass(frozen=True)
class PlainTexts:
    """Texts of files without columns."""

    texts: Iterable[str]
    taken: Taken

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    @property
    def source(self) -> PromptSource:
        """There is no column."""
        return PromptSource(column=None, chosen=None, taken=self.taken)


def dataset_name(dataset: str, split: str) -> str:
    """What a workload is called in reports: a file's or folder's own name, or hub id and split.

    A link keeps its own name: in the hub's cache each file is a link to a blob that is named by its hash.
    """
    path = local_path(dataset)
    if dataset == EMBEDDED:
        return EMBEDDED
    return Path(os.path.abspath(path)).name or "dataset" if path else f"{dataset}:{split}"


def local_path(dataset: str) -> Path | None:
    """The file or folder that a dataset's name means, ``None`` for embedded and the hub. What exists here wins.

    Raises:
        BadInput: it reads like a path, or like nothing known, and nothing is there.
    """
    if dataset == EMBEDDED:
        return None
    if not dataset or "\0" in dataset:
        raise BadInput(f"not a dataset: {dataset!r}", SUPPORTED)
    path = Path(dataset).expanduser()
    try:
        if path.exists():
            return path
    except OSError as error:
        raise BadInput(f"dataset {dataset[:80]!r}: {error.strerror or error}", SUPPORTED) from error
    looks_local = dataset.startswith((".", "/", "~")) or form_of(path) is not None
    if looks_local or not is_hub_id(dataset):
        raise BadInput(f"{dataset}: no such file or folder", SUPPORTED)
    return None


def local_texts(selection: Selection, progress: Progress) -> Texts | None:
    """Texts of an embedded or local dataset in its order, blank ones too; ``None`` for a dataset of the hub.

    Raises:
        BadInput: while iterating as well; see the module.
        OSError: a file cannot be opened.
    """
    if selection.dataset == EMBEDDED:
        return Prompts(json_lines(embedded_lines(), EMBEDDED), selection.column, EMBEDDED)
    path = local_path(selection.dataset)
    if path is None:
        return None
    if path.is_dir():
        return _folder(path, selection, progress)
    form = form_of(path)
    if form is None:
        raise BadInput(f"{path}: a dataset file does not end in {''.join(path.suffixes[-2:]) or 'nothing'}", SUPPORTED)
    if form.kind == "text":
        _refuse_column(path, selection.column)
        return PlainTexts(text_lines(path, form), "line")
    return Prompts(rows_of(path, form), selection.column, str(path))


def hub_texts(selection: Selection) -> Texts:
    """Texts of a split on the hub, streamed: of the split's files only what is needed is read.

    Raises:
        BadInput: while iterating as well; the hub's refusals.
    """
    import huggingface_hub  # noqa: PLC0415 - heavy

    dataset, split = selection.dataset, selection.split
    # Asked first, because it answers at once and says why; load_dataset retries for half a minute and does not.
    with hub_errors(f"dataset {dataset}"):
        commit = huggingface_hub.HfApi().dataset_info(dataset).sha
    origin = f"dataset {dataset} (split {split})"
    with _library_errors(origin, "check the split's name and the network"):
        # Streaming: the first 6000 stories of TinyStories are some MB of its 2 GB.
        rows = _datasets().load_dataset(dataset, split=split, revision=commit, streaming=True)
    return Prompts(_library_rows(rows, origin), selection.column, origin)


def _folder(path: Path, selection: Selection, progress: Progress) -> Texts:
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        with _library_errors(str(path), "is it a whole folder of save_to_disk?"):
            content = _datasets().load_from_disk(str(path))
        rows = _choose_split(content, selection.split, str(path), progress)
        return Prompts(_library_rows(rows, str(path)), selection.column, str(path))
    files = data_files(path)
    if files:
        chosen = files_of_split(path, files, selection.split, progress)
        return Prompts(_rows_of_all(chosen), selection.column, str(path))
    plain = plain_texts(path)
    if not plain:
        raise BadInput(f"{path}: no data files in this folder", SUPPORTED)
    _refuse_column(path, selection.column)
    return PlainTexts(("\n".join(text_lines(file, form)) for file in plain if (form := form_of(file))), "file")


def _rows_of_all(files: Iterable[Path]) -> Iterator[Row]:
    return chain.from_iterable(rows_of(file, form) for file in files if (form := form_of(file)))


def _refuse_column(path: Path, column: str | None) -> None:
    if column is not None:
        raise BadInput(f"{path}: no column {column!r}: plain text has no columns", "leave --text-column out")


def _datasets() -> Any:
    import datasets  # type: ignore[import-untyped]  # noqa: PLC0415 - heavy

    return datasets


def _choose_split(content: Any, split: str, origin: str, progress: Progress) -> Any:
    """A split of a saved dataset. An only split is taken whatever its name, because local data seldom names one."""
    if not isinstance(content, Mapping):
        return content
    if split in content:
        return content[split]
    if len(content) == 1:
        only = next(iter(content))
        progress(f"{origin}: has no split {split!r}; taking its only one, {only!r}")
        return content[only]
    raise BadInput(f"{origin}: no split {split!r}", f"splits: {', '.join(map(str, content)) or 'none'}")


def _library_rows(rows: Any, origin: str) -> Iterator[Row]:
    """Rows of a ``datasets`` split, streamed or not."""
    with _library_errors(origin, "is it damaged, or the connection broken?"):
        for number, row in enumerate(rows, start=1):
            yield f"{origin}: row {number}", row


@contextmanager
def _library_errors(origin: str, hint: str) -> Iterator[None]:
    """What the hub and dataset libraries raise for data that is missing, gated, unreachable or damaged, in one line."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # noqa: PLC0415 - heavy

    try:
        yield
    except (
        _datasets().exceptions.DatasetsError,
        HTTPError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        NotImplementedError,
    ) as error:
        raise BadInput(f"{origin}: cannot be read: {first_line(error)}", hint) from error
