"""Which kernels TurboMind multiplies with, as it wrote them down itself.

When the engine starts it tries its kernels on every shape of the model and keeps the fastest. Where the environment
names a file, it then writes its choices there: a header, and a record of 76 integers for each choice.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_VARIABLE = "TM_GEMM_EXPORT"
_HEADER = struct.Struct("<8sIIQ")  # its name, version, bytes of a record, records
_RECORD = struct.Struct("<76i")
_MAGIC, _VERSION = b"TMGEMM2\0", 6
# Places in a record, first what was asked for, then the kernel.
_WEIGHT_TYPE, _GROUP, _ROWS, _OUTPUTS, _INPUTS = 3, 18, 22, 23, 24
_ARCHITECTURE, _CLASS, _TILE, _BACKEND, _SPLITS = 26, 28, slice(50, 53), 72, 75
_FOUR_BITS, _CUBLAS = 4, 1
# As the engine's names of kernels have them: instructions for warps, and for groups of four warps (Hopper).
_CLASSES = {1: "mma_h884", 2: "mma_h16816", 3: "gmma_h64n16", 4: "gmma_q64n32"}


@dataclass(frozen=True)
class Choice:
    """Of one shape of a product.

    Attributes:
        four_bits: whether the weights are.
        group: inputs that share a scale in memory; 0 where weights are not quantised.
        rows: tokens at once; ``outputs``, ``inputs``: of the layer.
        kernel: family of kernels, in the engine's words.
        tile: of tokens, outputs and inputs that one block works on; empty for cuBLAS.
        splits: blocks that share the inputs of a tile.
    """

    four_bits: bool
    group: int
    rows: int
    outputs: int
    inputs: int
    kernel: str
    tile: str
    splits: int


@contextmanager
def written() -> Iterator[Path]:
    """Within it, an engine that is started writes its choices to this file."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "choices"
        os.environ[_VARIABLE] = str(path)
        try:
            yield path
        finally:
            del os.environ[_VARIABLE]


def choices(content: bytes) -> list[Choice]:
    """What the file says; nothing where it is of another version than is known here."""
    if len(content) < _HEADER.size:
        return []
    magic, version, record_bytes, count = _HEADER.unpack_from(content)
    known = magic == _MAGIC and version == _VERSION and record_bytes == _RECORD.size
    if not known or len(content) != _HEADER.size + count * record_bytes:
        return []
    return [_choice(record) for record in _records(content)]


def facts(found: list[Choice], rows: int) -> dict[str, str]:
    """For the record: kernels of the layers with the fewest bits, and their tiles for up to ``rows`` tokens at once."""
    layers = [choice for choice in found if choice.four_bits] or found
    if not layers:
        return {}
    tiles = {
        f"{c.tile}, {c.splits} splits" if c.splits > 1 else c.tile: None for c in layers if c.tile and c.rows <= rows
    }
    return {
        "linear_kernel": ", ".join(dict.fromkeys(choice.kernel for choice in layers)),
        **({"linear_kernel_tiles": "; ".join(tiles)} if tiles else {}),
    }


def group_in_memory(found: list[Choice]) -> int | None:
    """Inputs of a quantised layer that share a scale in memory; ``None`` where that is not known."""
    return next((choice.group for choice in found if choice.four_bits and choice.group), None)


def _records(content: bytes) -> Iterator[tuple[int, ...]]:
    return _RECORD.iter_unpack(memoryview(content)[_HEADER.size :])


def _choice(record: tuple[int, ...]) -> Choice:
    four_bits, cublas = record[_WEIGHT_TYPE] == _FOUR_BITS, record[_BACKEND] == _CUBLAS
    weights = f"4-bit weights in groups of {record[_GROUP]}" if four_bits else "16-bit weights"
    family = f"{_CLASSES.get(record[_CLASS], f'class {record[_CLASS]}')} of sm_{record[_ARCHITECTURE] // 10}"
    return Choice(
        four_bits=four_bits,
        group=record[_GROUP],
        rows=record[_ROWS],
        outputs=record[_OUTPUTS],
        inputs=record[_INPUTS],
        kernel=f"{'cuBLAS' if cublas else family}, {weights}",
        tile="" if cublas else "x".join(map(str, record[_TILE])),
        splits=record[_SPLITS],
    )
