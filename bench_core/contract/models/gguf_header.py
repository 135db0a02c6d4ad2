"""The header of a GGUF file: which tensors it holds, of which types. Tensors themselves are not read.

Format: docs/gguf.md of the ggml project, versions 2 and 3, little-endian. Types and their blocks: ggml.h and
ggml-common.h of the same project. PyPI's ``gguf`` reads the same and wants numpy, which has no place in a worker
or in preparing, and it maps the whole file. Everything that is read is checked against the file's own length first, so
that a damaged count neither fills the memory nor runs on.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from bench_core.contract.errors import BadInput

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_HINT = "the file is damaged, was not copied whole, or is of another format: fetch it again"
_MOST_KEYS, _MOST_TENSORS = 100_000, 1_000_000
_LONGEST_NAME = 1024
_MOST_DIMENSIONS = 4
_DEFAULT_ALIGNMENT = 32

# Number of a type: name, values in a block, bytes of a block.
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
# Bytes of a key's value by its kind; 8 is a string and 9 an array.
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_ALIGNMENT_KEY = "general.alignment"


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: its type's name, its shape with the length of a row first, and the bytes that it takes."""

    type: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        """Number of values."""
        return prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """What a file holds: tensors by name."""

    tensors: dict[str, GgufTensor]

    @property
    def weights_bytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    @property
    def types(self) -> str:
        """How many tensors there are of each type: ``F32 61, Q4_0 180``."""
        counts = Counter(tensor.type for tensor in self.tensors.values())
        return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def read_gguf_header(path: Path) -> GgufHeader:
    """Reads a header and checks that every tensor lies within the file.

    Raises:
        BadInput: not such a file, or a damaged one; names the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            return _header(_Reader(stream, size))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}", _HINT) from error
    except _Damaged as error:
        raise BadInput(f"{path}: {error}", _HINT) from error


class _Damaged(Exception):
    """What is wrong, in a few words."""


class _Reader:
    """Reads forward through a file whose length is known."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self.size = size
        self.at = 0

    def take(self, count: int) -> bytes:
        self._require(count)
        content = self._stream.read(count)
        if len(content) != count:
            raise _Damaged("it ended while it was read")
        self.at += count
        return content

    def skip(self, count: int) -> None:
        self._require(count)
        self._stream.seek(count, os.SEEK_CUR)
        self.at += count

    def number(self, kind: str) -> int:
        value: int
        (value,) = struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))
        return value

    def name(self) -> str:
        length = self.number("Q")
        if length > _LONGEST_NAME:
            raise _Damaged(f"a name of {length} bytes at byte {self.at}")
        return self.take(length).decode("utf-8", "replace")

    def _require(self, count: int) -> None:
        if count > self.size - self.at:
            raise _Damaged(f"its header says more than its {self.size} bytes hold, at byte {self.at}")


def _header(reader: _Reader) -> GgufHeader:
    if reader.size < 24 or reader.take(4) != _MAGIC:
        raise _Damaged("not a GGUF file")
    version = reader.number("I")
    if version not in _VERSIONS:
        big = version in (v << 24 for v in _VERSIONS)
        raise _Damaged("a big-endian GGUF file" if big else f"GGUF of version {version}, and versions 2 and 3 are read")
    tensors, keys = reader.number("Q"), reader.number("Q")
    if tensors > _MOST_TENSORS or keys > _MOST_KEYS:
        raise _Damaged(f"its header says {tensors} tensors and {keys} keys")
    alignment = _DEFAULT_ALIGNMENT
    for _ in range(keys):
        name, kind = reader.name(), reader.number("I")
        if name == _ALIGNMENT_KEY and kind == _UINT32:
            alignment = reader.number("I")
        else:
            _skip_value(reader, kind)
    if not 0 < alignment < 1 << 20:
        raise _Damaged(f"its {_ALIGNMENT_KEY} is {alignment}")
    return _tensors(reader, tensors, alignment)


def _skip_value(reader: _Reader, kind: int) -> None:
    if kind == _STRING:
        reader.skip(reader.number("Q"))
        return
    if kind != _ARRAY:
        reader.skip(_scalar_bytes(kind))
        return
    of, count = reader.number("I"), reader.number("Q")
    if of == _STRING:
        if count > reader.size // 8:  # each has its length in front
            raise _Damaged(f"a list of {count} texts in {reader.size} bytes")
        for _ in range(count):
            reader.skip(reader.number("Q"))
        return
    # A list of lists is in the format and in no file: nothing is read of it, whatever it is.
    reader.skip(count * _scalar_bytes(of))


def _scalar_bytes(kind: int) -> int:
    if kind not in _SCALARS:
        raise _Damaged(f"a value of unknown kind {kind}")
    return _SCALARS[kind]


def _tensors(reader: _Reader, count: int, alignment: int) -> GgufHeader:
    found: dict[str, GgufTensor] = {}
    last = 0
    for _ in range(count):
        name, dimensions = reader.name(), reader.number("I")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise _Damaged(f"the tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(reader.number("Q") for _ in range(dimensions))
        kind, offset = reader.number("I"), reader.number("Q")
        if kind not in TYPES:
            raise _Damaged(f"the tensor {name[:80]!r} is of type {kind}, which is not known here")
        word, block, block_bytes = TYPES[kind]
        if not all(shape) or shape[0] % block:
            raise _Damaged(f"the tensor {name[:80]!r} of type {word} has rows of {shape[0]} values")
        size = prod(shape) // block * block_bytes
        if name in found:
            raise _Damaged(f"the tensor {name[:80]!r} stands twice")
        found[name] = GgufTensor(word, shape, size)
        last = max(last, offset + size)
    begin = (reader.at + alignment - 1) // alignment * alignment
    if not found:
        raise _Damaged("holds no tensor")
    if begin + last > reader.size:
        raise _Damaged(f"{reader.size} bytes instead of the {begin + last} that its header says")
    return GgufHeader(found)
