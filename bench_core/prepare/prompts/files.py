"""One file of a dataset, by the form that its name ends in: lines, rows, and what is wrong with them and where.

Paths are opened, never matched: ``[``, ``]``, ``*`` and ``?`` in a name are letters like others.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from bench_core.contract.errors import BadInput, first_line
from bench_core.prepare.prompts.columns import Row

# The last part of a file's name, and what the file is. Forms of one kind may stand together in a folder.
KINDS = {
    ".jsonl": "json", ".json": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
    ".arrow": "arrow", ".txt": "text",
}  # fmt: skip
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_COMPRESS_THEMSELVES = ("parquet", "arrow")
FORMS = "a .jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt file (the texts also as .gz, .bz2, .xz or .zst)"
_JSON_HINT = "one JSON object per line, or one array; take a list out of an object with: jq -c '.KEY[]' FILE"
_OBJECT_HINT = 'each row is an object such as {"text": "a prompt"}; prompts alone, one a line, are a .txt file'
_HEADER_WORDS = 6


@dataclass(frozen=True)
class Form:
    """What a file is: the kind of its content, and the ending of its compression, if any."""

    kind: str
    compression: str | None


def form_of(path: Path) -> Form | None:
    """By the end of its name; ``None`` for what is not taken."""
    ending = path.suffix.lower()
    compression = ending if ending in COMPRESSIONS else None
    kind = KINDS.get(Path(path.stem).suffix.lower() if compression else ending)
    if kind is None or (compression and kind in _COMPRESS_THEMSELVES):
        return None
    return Form(kind, compression)


def rows_of(path: Path, form: Form) -> Iterator[Row]:
    """The rows of a file with columns.

    Raises:
        BadInput: while iterating: not of its form, with the line or row.
        OSError: it cannot be opened.
    """
    if form.kind in ("parquet", "arrow"):
        return _arrow_rows(path, form.kind)
    if form.kind == "json":
        return _json_rows(path, form)
    return _separated_rows(path, form, "\t" if form.kind == "tsv" else ",")


def text_lines(path: Path, form: Form) -> Iterator[str]:
    """The lines of a text file, without their ends.

    Raises:
        BadInput: while iterating: not UTF-8, or damaged.
    """
    with _opened(path, form) as stream:
        yield from (line.rstrip("\r\n") for line in _decoded(stream, str(path)))


def json_lines(lines: Iterable[bytes], origin: str) -> Iterator[Row]:
    """The rows of JSON lines; an array is taken whole, whatever the lines that it is written in.

    Raises:
        BadInput: while iterating: not UTF-8, not JSON, or not an object.
    """
    begun = False
    numbered = enumerate(_decoded(lines, origin), start=1)
    for number, line in numbered:
        if not line.strip():
            continue  # a blank line is no row; an editor's last newline must not count as an empty prompt
        if line.lstrip().startswith("[") and not begun:
            whole = "\n" * (number - 1) + line + "".join(more for _number, more in numbered)
            yield from _array(whole, origin)
            return
        begun = True
        where = f"{origin}:{number}"
        yield where, _object(_loaded(line, where), where)


def _json_rows(path: Path, form: Form) -> Iterator[Row]:
    with _opened(path, form) as stream:
        yield from json_lines(stream, str(path))


def _array(text: str, origin: str) -> Iterator[Row]:
    rows = _loaded(text, origin)
    for number, row in enumerate(cast("list[object]", rows), start=1):
        where = f"{origin}: element {number}"
        yield where, _object(row, where)


def _loaded(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON: {first_line(error)}", _JSON_HINT) from error


def _object(row: object, where: str) -> dict[str, object]:
    if not isinstance(row, dict):
        raise BadInput(f"{where}: not a JSON object", _OBJECT_HINT)
    return row


def _separated_rows(path: Path, form: Form, separator: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the library's own limit is 131072 characters, less than a long story
    with _opened(path, form) as stream:
        reader = csv.reader(_decoded(stream, str(path)), delimiter=separator, strict=True)
        names: list[str] | None = None
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                hint = "quote fields that hold quotes or line breaks, and double the quotes inside"
                raise BadInput(f"{path}:{reader.line_num}: cannot be read: {error}", hint) from error
            if cells is None:
                return
            if not cells:
                continue
            if names is None:
                names = _header(cells, path, separator)
            elif len(cells) != len(names):
                raise BadInput(
                    f"{path}:{reader.line_num}: {len(cells)} fields, and the header has {len(names)}",
                    "quote fields that hold separators or line breaks",
                )
            else:
                yield f"{path}:{reader.line_num}", dict(zip(names, cells, strict=True))


def _header(cells: list[str], path: Path, separator: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(set(names)) < len(names):
        raise BadInput(f"{path}:1: two columns have one name", "give each column a name of its own")
    if len(names) == 1 and any(other in names[0] for other in ",;\t|" if other != separator):
        raise BadInput(
            f"{path}:1: the columns of {names[0][:60]!r} are not separated as the file's name says",
            "a .csv has commas, a .tsv has tabs",
        )
    if any(len(name.split()) >= _HEADER_WORDS for name in names):
        raise BadInput(
            f"{path}:1: reads like a prompt, not like names of columns",
            "the first line names the columns, such as: text",
        )
    return names


def _arrow_rows(path: Path, kind: str) -> Iterator[Row]:
    import pyarrow  # type: ignore[import-untyped]  # noqa: PLC0415 - heavy
    from pyarrow import ipc, parquet  # noqa: PLC0415 - heavy

    number = 0
    with path.open("rb") as stream:
        try:
            if kind == "parquet":
                batches = parquet.ParquetFile(stream).iter_batches(batch_size=1000)
            else:
                batches = _arrow_batches(ipc, stream)
            for batch in batches:
                batch.validate(full=True)  # reading what a damaged file's offsets point to may end this process
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
        # MemoryError: a damaged length asks for more than there is.
        except (pyarrow.ArrowException, OSError, ValueError, TypeError, NotImplementedError, MemoryError) as error:
            raise BadInput(
                f"{path}: cannot be read after row {number}: {first_line(error)}", f"is it a whole {kind} file?"
            ) from error


def _arrow_batches(ipc: object, stream: BinaryIO) -> Iterator[object]:
    """Of either format that ends in .arrow: the library ``datasets`` writes streams."""
    magic = stream.read(6)
    stream.seek(0)
    if magic == b"ARROW1":
        reader = ipc.open_file(stream)  # type: ignore[attr-defined]
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    return iter(ipc.open_stream(stream))  # type: ignore[attr-defined]


@contextmanager
def _opened(path: Path, form: Form) -> Iterator[BinaryIO]:
    with path.open("rb") as raw:
        if form.compression is None:
            yield raw
            return
        try:
            yield _decompressed(raw, form.compression)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise BadInput(
                f"{path}: cannot be decompressed: {first_line(error)}", f"is it a whole {form.compression} file?"
            ) from error


def _decompressed(raw: BinaryIO, compression: str) -> BinaryIO:
    if compression == ".gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=raw))
    if compression == ".bz2":
        return cast("BinaryIO", bz2.BZ2File(raw))
    if compression == ".xz":
        return cast("BinaryIO", lzma.LZMAFile(raw))
    import pyarrow  # noqa: PLC0415 - heavy

    return cast("BinaryIO", io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd")))


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
