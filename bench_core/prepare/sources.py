"""Where prompts come from: the embedded ones, local files and folders, or a dataset of the Hugging Face hub.

A source gives texts in its own order and may be long: readers take what they need. What cannot be read raises
:class:`BadInput` that names the file and, where there are lines, the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bench_core.contract import layout
from bench_core.contract.digest import text_sha256
from bench_core.contract.errors import BadInput, first_line
from bench_core.prepare.embedded import EMBEDDED, embedded_lines
from bench_core.prepare.hub import hub_errors, is_hub_id
from bench_core.prepare.staging import Progress, disk_errors, write_file

TEXT_COLUMN = "text"
LINE_SUFFIXES = (".jsonl", ".json")
FILE_SUFFIXES = (*LINE_SUFFIXES, ".parquet", ".txt")
FOLDER_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".arrow")
FETCHED_FOLDER = "datasets"

_SUPPORTED = "a dataset is embedded, a hub id, a .jsonl, .json, .parquet or .txt file, or a folder of such files"


@dataclass(frozen=True)
class Selection:
    """Which texts: of a dataset, its split and column (``None``: found out), and how many from its front."""

    dataset: str
    split: str
    column: str | None = None
    samples: int | None = None


def dataset_name(dataset: str, split: str) -> str:
    """What a workload is called in reports: a file's or folder's own name, or hub id and split."""
    path = local_path(dataset)
    if dataset == EMBEDDED:
        return EMBEDDED
    return path.resolve().name if path else f"{dataset}:{split}"


def local_path(dataset: str) -> Path | None:
    """The file or folder that a dataset's name means, ``None`` for embedded and the hub. What exists here wins.

    Raises:
        BadInput: it reads like a path, or like nothing known, and nothing is there.
    """
    if dataset == EMBEDDED:
        return None
    if not dataset or "\0" in dataset:
        raise BadInput(f"not a dataset: {dataset!r}", _SUPPORTED)
    path = Path(dataset).expanduser()
    try:
        if path.exists():
            return path
    except OSError as error:
        raise BadInput(f"dataset {dataset[:80]!r}: {error.strerror or error}", _SUPPORTED) from error
    looks_local = dataset.startswith((".", "/", "~")) or path.suffix.lower() in FILE_SUFFIXES
    if looks_local or not is_hub_id(dataset):
        raise BadInput(f"{dataset}: no such file or folder", _SUPPORTED)
    return None


def texts(selection: Selection, data_root: Path, progress: Progress) -> Iterator[str]:
    """Texts of a dataset in its order; blank ones too. ``samples`` bounds only what is fetched from the hub.

    Raises:
        BadInput: while iterating as well; see the module.
    """
    split, column = selection.split, selection.column
    if selection.dataset == EMBEDDED:
        return _json_lines(embedded_lines(), EMBEDDED, column)
    path = local_path(selection.dataset)
    if path is None:
        return iter(_fetched(selection, data_root, progress))
    if path.is_dir():
        return _folder(path, split, column, progress)
    suffix = path.suffix.lower()
    if suffix in LINE_SUFFIXES:
        return _json_file(path, column)
    if suffix == ".txt":
        return _text_lines(path)
    if suffix == ".parquet":
        return _parquet(path, column)
    raise BadInput(f"{path}: a dataset file does not end in {suffix or 'nothing'}", _SUPPORTED)


def pick_column(columns: Mapping[str, bool], wanted: str | None, origin: str) -> str:
    """The column that holds the prompts: the one asked for, else ``text``, else the only one with text.

    Args:
        columns: name to whether it holds text.
        wanted: the user's choice, if any.
        origin: names the source in the error.

    Raises:
        BadInput: no such column, not text, or more than one to choose from.
    """
    names = ", ".join(columns) or "none"
    name = wanted or (TEXT_COLUMN if TEXT_COLUMN in columns else None)
    if name is None:
        textual = [column for column, is_text in columns.items() if is_text]
        if len(textual) != 1:
            found = f"columns with text: {', '.join(textual)}" if textual else f"no column with text among {names}"
            raise BadInput(f"{origin}: which column holds the prompts? {found}", "choose with --text-column")
        name = textual[0]
    if name not in columns:
        raise BadInput(f"{origin}: no column {name!r}", f"columns: {names}")
    if not columns[name]:
        raise BadInput(f"{origin}: the column {name!r} is not text", f"columns: {names}")
    return name


def _datasets() -> Any:
    import datasets  # type: ignore[import-untyped]  # noqa: PLC0415 - heavy

    return datasets


def _json_file(path: Path, column: str | None) -> Iterator[str]:
    with path.open("rb") as stream:
        yield from _json_lines(stream, str(path), column)


def _json_lines(lines: Iterable[bytes], origin: str, column: str | None) -> Iterator[str]:
    for number, line in enumerate(_decoded(lines, origin), start=1):
        if not line.strip():
            continue  # a blank line is no row; an editor's last newline must not count as an empty prompt
        where = f"{origin}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            hint = "one JSON object per line; turn an array into lines with: jq -c '.[]' FILE"
            raise BadInput(f"{where}: not JSON: {first_line(error)}", hint) from error
        if not isinstance(row, dict):
            raise BadInput(f"{where}: not a JSON object", 'each line is an object such as {"text": "a prompt"}')
        if column is None:
            column = pick_column({str(k): isinstance(v, str) for k, v in row.items()}, None, where)
        if column not in row:
            raise BadInput(f"{where}: no column {column!r}", f"columns of this line: {', '.join(row) or 'none'}")
        yield _text(row[column], column, where)


def _text_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as stream:
        yield from (line.rstrip("\r\n") for line in _decoded(stream, str(path)))


def _decoded(lines: Iterable[bytes], origin: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise BadInput(
                f"{origin}:{number}: not UTF-8: byte 0x{byte:02x} at position {error.start + 1} of the line",
                "save the file as UTF-8",
            ) from error


def _text(value: object, column: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadInput(f"{where}: the column {column!r} is not text but {type(value).__name__}", "prompts are text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(f"{where}: the text holds half a surrogate pair", "it is not valid Unicode") from error
    return value


def _folder(path: Path, split: str, column: str | None, progress: Progress) -> Iterator[str]:
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _saved_to_disk(path, split, column, progress)
    files = [p for p in path.rglob("*") if p.is_file() and not layout.is_hidden(p.relative_to(path))]
    if any(p.suffix.lower() in FOLDER_SUFFIXES for p in files):
        return _data_files(path, split, column, progress)
    plain = sorted(p for p in files if p.suffix.lower() == ".txt" and p.parent == path)
    if not plain:
        raise BadInput(f"{path}: no data files in this folder", _SUPPORTED)
    return ("\n".join(_text_lines(p)) for p in plain)


def _parquet(path: Path, column: str | None) -> Iterator[str]:
    datasets = _datasets()

    with _library_errors(str(path), "is it a whole parquet file?"):
        rows = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    return _rows(rows, column, str(path))


def _saved_to_disk(path: Path, split: str, column: str | None, progress: Progress) -> Iterator[str]:
    datasets = _datasets()

    with _library_errors(str(path), "is it a whole folder of save_to_disk?"):
        content = datasets.load_from_disk(str(path))
    return _rows(_choose_split(content, split, str(path), progress), column, str(path))


def _data_files(path: Path, split: str, column: str | None, progress: Progress) -> Iterator[str]:
    datasets = _datasets()

    with _library_errors(str(path), "can datasets.load_dataset read this folder?"):
        content = datasets.load_dataset(str(path.resolve()), streaming=True)
    return _rows(_choose_split(content, split, str(path), progress), column, str(path))


def _choose_split(content: Any, split: str, origin: str, progress: Progress) -> Any:
    """A split of a local dataset. An only split is taken whatever its name, because local files seldom name one."""
    if not isinstance(content, Mapping):
        return content
    if split in content:
        return content[split]
    if len(content) == 1:
        only = next(iter(content))
        progress(f"{origin}: has no split {split!r}; taking its only one, {only!r}")
        return content[only]
    raise BadInput(f"{origin}: no split {split!r}", f"splits: {', '.join(map(str, content)) or 'none'}")


def _fetched(selection: Selection, data_root: Path, progress: Progress) -> Sequence[str]:
    """Texts of a hub dataset, kept under ``data_root`` as fetched: later runs need no network and read the same."""
    dataset, split = selection.dataset, selection.split
    key = text_sha256(json.dumps([dataset, split, selection.column, selection.samples]))[:12]
    kept = data_root / FETCHED_FOLDER / f"{layout.slug(f'{dataset}-{split}')}-{key}.jsonl"
    if kept.is_file():
        progress(f"dataset {dataset}: already fetched ({kept.name})")
        return list(_json_file(kept, TEXT_COLUMN))
    progress(f"dataset {dataset}: fetching split {split} from the Hugging Face hub")
    rows = list(_until(_hub(dataset, split, selection.column), selection.samples))
    lines = "".join(json.dumps({TEXT_COLUMN: text}, ensure_ascii=False) + "\n" for text in rows)
    with disk_errors(data_root):
        write_file(kept, lines.encode())
    return rows


def _until(rows: Iterator[str], samples: int | None) -> Iterator[str]:
    """Rows up to and with the ``samples``-th that is not blank."""
    full = 0
    for row in rows:
        if samples is not None and full >= samples:
            return
        yield row
        full += bool(row.strip())
        if full == samples:
            return


def _hub(dataset: str, split: str, column: str | None) -> Iterator[str]:
    import huggingface_hub  # noqa: PLC0415 - heavy

    datasets = _datasets()

    # Asked first, because it answers at once and says why; load_dataset retries for half a minute and does not.
    with hub_errors(f"dataset {dataset}"):
        commit = huggingface_hub.HfApi().dataset_info(dataset).sha
    origin = f"dataset {dataset} (split {split})"
    with _library_errors(origin, "check the split's name and the network"):
        # Streaming reads only the split's own files, and of those what is needed: the first 6000 stories of
        # TinyStories are some MB of its 2 GB.
        rows = datasets.load_dataset(dataset, split=split, revision=commit, streaming=True)
    return _rows(rows, column, origin)


def _rows(rows: Any, column: str | None, origin: str) -> Iterator[str]:
    """Texts of a ``datasets`` split, streamed or not."""
    features = rows.features
    with _library_errors(origin, "is it damaged, or the connection broken?"):
        if features is None:  # a stream whose files do not say
            first = next(iter(islice(rows, 1)), None)
            if first is None:
                return
            columns = {str(k): isinstance(v, str) for k, v in first.items()}
        else:
            columns = {str(k): getattr(v, "dtype", None) in ("string", "large_string") for k, v in features.items()}
        name = pick_column(columns, column, origin)
        for number, row in enumerate(rows, start=1):
            yield _text(row[name], name, f"{origin}: row {number}")


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
