"""Models with random weights of a true shape: the speed of an engine without a download.

Every weight is a quantile of a normal distribution picked by 16 random bits. The bits are PCG64's raw output, which
numpy keeps the same for ever (its normal distribution it does not), seeded for each piece of a tensor by seed, tensor
name and piece: the same bytes on every machine, however many threads write them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from bench_core.prepare.disk import readable
from bench_core.prepare.models.hf_config import CONFIG_FILE, GENERATION_FILE, portable_config
from bench_core.prepare.models.shapes import DTYPE_BYTES, Shape
from bench_core.prepare.models.weights import DTYPE_NAMES, INDEX_FILE, SINGLE_FILE
from bench_core.prepare.prompts.tokenizer import BOS_ID, EOS_ID, PAD_ID, ByteTokenizer
from bench_core.prepare.staging import Progress, quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Part of what decides the bytes: a change of either must change RECIPE too.
RECIPE = "synthetic-1"
PIECE_ELEMENTS = 1 << 18

SHARD_BYTES = 1_000_000_000
MAX_THREADS = 8
_HEADER_NAMES = {name: code for code, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class _Shard:
    name: str
    header: bytes
    tensors: dict[str, tuple[int, int]]  # name to (offset in the file, elements)
    size_bytes: int


def write_synthetic(
    shape: Shape, seed: int, folder: Path, progress: Progress = quiet, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes a whole model folder: configuration, weights in shards with an index, byte-level tokenizer.

    Memory stays at some MB a thread whatever the model's size. The same arguments give the same bytes.

    Raises:
        OSError: no space, or the folder is not writable.
    """
    generation = {"bos_token_id": BOS_ID, "do_sample": False, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    files = {CONFIG_FILE: _json(portable_config(shape.config())), GENERATION_FILE: _json(generation)}
    files.update(ByteTokenizer(shape.vocab_size).files())
    for name, content in files.items():
        (folder / name).write_bytes(content)
    shards = _plan(shape, shard_bytes)
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    table = _quantiles(shape)
    with ThreadPoolExecutor(threads) as pool:
        for number, shard in enumerate(shards, start=1):
            _write_shard(shard, folder, partial(_values, table, seed), shape, pool)
            progress(f"random weights: file {number} of {len(shards)} ({readable(shard.size_bytes)})")
    if len(shards) > 1:
        weight_map = {tensor: shard.name for shard in shards for tensor in shard.tensors}
        index = {"metadata": {"total_size": shape.weight_bytes}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_bytes(_json(index))


def _plan(shape: Shape, shard_bytes: int) -> list[_Shard]:
    item = DTYPE_BYTES[shape.dtype]
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, dims in shape.tensors().items():
        size = prod(dims) * item
        if groups[-1] and filled + size > shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = dims
        filled += size
    shards = []
    for number, group in enumerate(groups, start=1):
        name = SINGLE_FILE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        shards.append(_shard(name, group, shape.dtype))
    return shards


def _shard(name: str, group: dict[str, tuple[int, ...]], dtype: str) -> _Shard:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file that does not say so
    end = 0
    for tensor, dims in group.items():
        begin, end = end, end + prod(dims) * DTYPE_BYTES[dtype]
        header[tensor] = {"dtype": _HEADER_NAMES[dtype], "shape": list(dims), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants tensors aligned
    start = 8 + len(text)
    places = {t: (start + header[t]["data_offsets"][0], prod(dims)) for t, dims in group.items()}
    return _Shard(name, len(text).to_bytes(8, "little") + text, places, start + end)


def _write_shard(
    shard: _Shard,
    folder: Path,
    values: Callable[[str, int, int], NDArray[Any]],
    shape: Shape,
    pool: ThreadPoolExecutor,
) -> None:
    item = DTYPE_BYTES[shape.dtype]
    with (folder / shard.name).open("xb") as stream:
        stream.write(shard.header)
        stream.flush()
        descriptor = stream.fileno()
        # Reserved before written: a disk that is too small says so now, and pieces can be written in any order.
        os.posix_fallocate(descriptor, 0, shard.size_bytes)

        def write(piece: tuple[str, int, int, int]) -> None:
            tensor, number, offset, count = piece
            _write_all(descriptor, memoryview(values(tensor, number, count).tobytes()), offset)

        writes = [pool.submit(write, piece) for piece in _pieces(shard, item)]
        try:
            for done in writes:
                done.result()
        finally:  # none may still write when the file is closed: its descriptor could be another file's by then
            for pending in writes:
                pending.cancel()
            wait(writes)
        os.fsync(descriptor)


def _pieces(shard: _Shard, item: int) -> Iterator[tuple[str, int, int, int]]:
    """(tensor, number of the piece, offset in the file, elements)."""
    for tensor, (offset, elements) in shard.tensors.items():
        for number, first in enumerate(range(0, elements, PIECE_ELEMENTS)):
            yield tensor, number, offset + first * item, min(PIECE_ELEMENTS, elements - first)


def _write_all(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _values(table: NDArray[Any], seed: int, tensor: str, piece: int, count: int) -> NDArray[Any]:
    import numpy as np  # noqa: PLC0415 - heavy

    if tensor.endswith("norm.weight"):
        return np.full(count, table[-1])
    digest = hashlib.sha256(f"{RECIPE}/{seed}/{tensor}/{piece}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
    # The full range of 64 bits is the generator's raw output, one word each (random_raw is the same, but slower).
    words = generator.integers(0, 1 << 64, -(-count // 4), dtype=np.uint64)
    picks = words.astype("<u8", copy=False).view("<u2")[:count]
    return table[:-1].take(picks, mode="clip")


def _quantiles(shape: Shape) -> NDArray[Any]:
    """The 65536 weights to pick from, in the model's type (bfloat16 as its bits), and 1.0 behind them for the norms."""
    import numpy as np  # noqa: PLC0415 - heavy

    normal = NormalDist(sigma=shape.std)
    half = [normal.inv_cdf((index + 0.5) / 65536) for index in range(32768)]
    values = np.array([*half, *(-value for value in reversed(half)), 1.0], dtype=np.float64)
    if shape.dtype != "bfloat16":
        return values.astype(np.dtype(shape.dtype).newbyteorder("<"))
    bits = values.astype(np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)  # to nearest, ties to even
    return (rounded >> 16).astype("<u2")


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
