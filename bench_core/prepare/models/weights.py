"""Safetensors files, checked without reading their tensors: an 8-byte length, a JSON header, then the tensors.

Format: the README of the safetensors library. The library itself reads a header only by mapping the file, and its
errors do not name the tensor; a folder that a person names is checked here, shard by shard, before any engine sees it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.models.tensor_names import HEADS, TOKEN_TABLES, is_buffer
from bench_core.contract.records.record import LARGEST_INT

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
# The library's own limit: a longer header is damage, not a model.
MAX_HEADER_BYTES = 100_000_000
# BOOL to F64 as the library names them; sub-byte types are not weights that the suite knows.
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_TOO_MANY_DIGITS = re.compile(r"\d{10}")  # a layer's or an expert's number; Python refuses to read thousands of digits
_PIECE_BYTES = 1 << 20
_HINT = "the file is damaged or was not copied whole: fetch it again"


@dataclass(frozen=True)
class Tensor:
    """One entry of a header."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of values."""
        return prod(self.shape)


def shard_names(folder: Path) -> list[str]:
    """File names of a folder's safetensors weights: the index's shards where there is an index, else the single file.

    Raises:
        BadInput: an index that is no index or names a file outside the folder or a missing one; or several files
            without an index. An empty list means: no safetensors weights.
    """
    index = folder / INDEX_FILE
    if index.is_file():
        return _indexed(index)
    if (folder / SINGLE_FILE).is_file():
        return [SINGLE_FILE]
    found = sorted(p.name for p in folder.glob("*.safetensors") if p.is_file())
    if len(found) > 1:
        raise BadInput(f"{folder}: {len(found)} safetensors files but no {INDEX_FILE}", "the folder is incomplete")
    return found


def index_names(index: Path) -> list[str]:
    """The shards that an index names, sorted; they need not be there.

    Raises:
        BadInput: not an index, or a name that is not a plain file's.
    """
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        # A name with a separator could leave the folder (../x, /etc/x); nobody shards into sub-folders.
        if "/" in name or "\\" in name or "\0" in name or not name.endswith(".safetensors") or len(name) > 200:
            raise BadInput(f"{index}: names a shard {name[:80]!r}", "shards are .safetensors files beside the index")
    return names


def check_shards(folder: Path, names: list[str]) -> dict[str, Tensor]:
    """All tensors of the shards, each header checked against its file.

    Raises:
        BadInput: a damaged file, a tensor that stands twice, or one that the index places elsewhere.
    """
    tensors: dict[str, Tensor] = {}
    for name in names:
        for tensor, entry in read_header(folder / name).items():
            if tensor in tensors:
                raise BadInput(f"{folder / name}: the tensor {tensor} stands in another shard too", _HINT)
            tensors[tensor] = entry
    index = folder / INDEX_FILE
    if index.is_file():
        missing = sorted(set(_weight_map(index)) - set(tensors))
        if missing:
            raise BadInput(f"{folder}: the index names the tensor {missing[0]}, but no shard holds it", _HINT)
    return tensors


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one file; offsets must be contiguous from 0 and end where the file ends.

    Raises:
        BadInput: unreadable, truncated, too long, not JSON, or offsets that do not fit; names the file.
    """
    return {name: tensor for _begin, _stop, name, tensor in _read_spans(path)}


def _read_spans(path: Path) -> list[tuple[int, int, str, Tensor]]:
    """Where in the file each tensor begins and stops, its name and itself."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise BadInput(f"{path}: not a safetensors file: a header of {length} bytes in {size}", _HINT)
            content = stream.read(length)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}", _HINT) from error
    try:
        header = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: the header is not JSON: {first_line(error)}", _HINT) from error
    if not isinstance(header, dict):
        raise BadInput(f"{path}: the header is not a JSON object", _HINT)
    header.pop("__metadata__", None)
    if not header:
        raise BadInput(f"{path}: holds no tensor", _HINT)
    spans = [_entry(path, name, entry) for name, entry in header.items()]
    end = 0
    for begin, stop, name, _tensor in sorted(spans, key=lambda span: span[:2]):
        if begin != end:
            raise BadInput(f"{path}: the tensor {name} begins at byte {begin} instead of {end}", _HINT)
        end = stop
    if 8 + length + end != size:
        raise BadInput(f"{path}: {size} bytes instead of the {8 + length + end} that its header says", _HINT)
    return [(8 + length + begin, 8 + length + stop, name, tensor) for begin, stop, name, tensor in spans]


def weights_only(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without buffers, such as stored attention masks: they are no weights, and engines make them anew."""
    return {name: tensor for name, tensor in tensors.items() if not is_buffer(name, tensor.shape)}


def count_parameters(tensors: Mapping[str, Tensor], tied: bool) -> int:
    """Stored weights; an output matrix that is only a copy of the embedding does not count."""
    copied = tied and any(name.endswith(TOKEN_TABLES) for name in tensors)
    return sum(t.elements for name, t in weights_only(tensors).items() if not (copied and name.endswith(HEADS)))


def holds_own_head(folder: Path, names: list[str]) -> bool:
    """Whether an output layer is stored beside the input embeddings and differs from them. Such a checkpoint has two
    tables whatever ``tie_word_embeddings`` says: transformers 5 and llama.cpp's converter take what is stored.

    Raises:
        BadInput: a file cannot be read.
    """
    tables: list[tuple[Path, int, int, Tensor]] = []
    heads: list[tuple[Path, int, int, Tensor]] = []
    for file in (folder / name for name in names):
        for begin, stop, name, tensor in _read_spans(file):
            if name.endswith((*TOKEN_TABLES, *HEADS)):
                (tables if name.endswith(TOKEN_TABLES) else heads).append((file, begin, stop, tensor))
    if len(tables) != 1 or len(heads) != 1:
        return bool(heads and tables)  # a head alone is the table, too
    (file, begin, stop, table), (head_file, head_begin, _, head) = tables[0], heads[0]
    if table != head:
        return True
    try:
        with file.open("rb") as one, head_file.open("rb") as other:
            one.seek(begin)
            other.seek(head_begin)
            return any(
                one.read(size) != other.read(size)
                for size in (min(_PIECE_BYTES, stop - at) for at in range(begin, stop, _PIECE_BYTES))
            )
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror or error}", _HINT) from error


def stored_dtype(tensors: Mapping[str, Tensor], origin: str) -> str:
    """The type of most weights: ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        BadInput: another type, as in quantised models.
    """
    elements: dict[str, int] = {}
    for tensor in weights_only(tensors).values():
        elements[tensor.dtype] = elements.get(tensor.dtype, 0) + tensor.elements
    if not elements:
        raise BadInput(f"{origin}: holds no weights, only buffers", _HINT)
    most = max(elements, key=lambda dtype: elements[dtype])
    if most not in DTYPE_NAMES:
        raise BadInput(
            f"{origin}: weights are stored as {most}", "give the unquantised model (F32, F16 or BF16); images quantise"
        )
    return DTYPE_NAMES[most]


def _entry(path: Path, name: str, entry: object) -> tuple[int, int, str, Tensor]:
    try:
        if not isinstance(entry, dict):
            raise TypeError("not an object")
        if _TOO_MANY_DIGITS.search(name):
            raise ValueError("a number in its name has more than nine digits")
        dtype, shape = str(entry["dtype"]), tuple(_count(n) for n in entry["shape"])
        begin, stop = (_count(n) for n in entry["data_offsets"])
        if dtype not in ITEM_BYTES:
            raise ValueError(f"unknown type {dtype[:20]}")
        if stop - begin != prod(shape) * ITEM_BYTES[dtype]:
            raise ValueError(f"{stop - begin} bytes for the shape {list(shape)} of {dtype}")
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: the header's entry {name[:120]!r} is wrong: {first_line(error)}", _HINT) from error
    return begin, stop, name, Tensor(dtype, shape)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_INT:
        raise ValueError(f"{str(value)[:20]!r} is not a count")
    return value


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{index}: not an index: {first_line(error)}", _HINT) from error
    weights = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, str) for v in weights.values()):
        raise BadInput(f"{index}: has no weight_map of tensor to file", _HINT)
    return weights


def _indexed(index: Path) -> list[str]:
    names = index_names(index)
    for name in names:
        if not (index.parent / name).is_file():
            raise BadInput(f"{index.parent}: the shard {name} is missing", "fetch the model again")
    return names
