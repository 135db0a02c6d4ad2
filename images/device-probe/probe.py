"""Work of known size in PyTorch, for measuring a device. The worker times it; nothing here looks at a clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from bench_core.contract.adapter import Device
from bench_core.contract.records.device_rates import WorkPiece

Run = Callable[[int], None]

# Far larger than any cache, where there is room: the last-level caches of today end below 1 GiB on a CPU, at 0.13 GiB
# on a GPU.
_GPU_BUFFER_BYTES = 4 << 30
_CPU_BUFFER_BYTES = 1 << 29
_BUFFER_SHARE = 1 / 16  # of the memory that is free
_TIMES_CACHE = 4
_DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_LAUNCHES = 100


def work(device: Device) -> Sequence[WorkPiece]:
    """All pieces, the smallest first."""
    if device.kind == "cpu":
        torch.set_num_threads(device.threads)
    place = torch.device(device.kind)
    buffer_bytes = _buffer_bytes(place)
    sizes = {"float32": 4096, "tf32": 8192, "float16": 8192, "bfloat16": 8192}
    if place.type == "cpu":
        sizes = {"float32": 1024, "float16": 1024, "bfloat16": 1024}
    pieces = [WorkPiece("launch", "chain of tiny additions", "float32", (1,), _LAUNCHES, partial(_launches, place))]
    for dtype in ("float32", "float16") if place.type == "cuda" else ("float32",):
        columns = 16384
        rows = buffer_bytes // (columns * _DTYPES[dtype].itemsize)
        size = rows * columns * _DTYPES[dtype].itemsize
        pieces += [
            WorkPiece(
                "read", f"sum, {dtype}", dtype, (rows, columns), size, partial(_sum, place, dtype, rows, columns)
            ),
            WorkPiece(
                "read", f"matrix x vector, {dtype}", dtype, (rows, columns), size,
                partial(_vector, place, dtype, rows, columns),
            ),
        ]  # fmt: skip
    half = buffer_bytes // 2
    pieces.append(
        WorkPiece("copy", "copy", "float32", (half // 4,), 2 * (half // 4 * 4), partial(_copy, place, half // 4))
    )
    for dtype, size in sizes.items():
        flop = 2.0 * size**3
        pieces.append(
            WorkPiece("matrix", f"square product, {dtype}", dtype, (size, size, size), flop,
                      partial(_product, place, dtype, size, size)),
        )  # fmt: skip
    # As in a decode step: a few rows through a matrix that no cache holds.
    dtype, wide = ("float16", 16384) if place.type == "cuda" else ("float32", 8192)
    for rows in (1, 16, 64) if place.type == "cuda" else (1, 16):
        size = wide * wide * _DTYPES[dtype].itemsize
        pieces.append(
            WorkPiece("skinny", f"{rows} rows x matrix, {dtype}", dtype, (rows, wide, wide), size,
                      partial(_product, place, dtype, rows, wide)),
        )  # fmt: skip
    return pieces


def _buffer_bytes(place: torch.device) -> int:
    if place.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return int(min(_GPU_BUFFER_BYTES, free * _BUFFER_SHARE))
    wanted = max(_CPU_BUFFER_BYTES, _TIMES_CACHE * _last_level_cache_bytes())
    return int(min(wanted, _free_host_bytes() * _BUFFER_SHARE))


def _last_level_cache_bytes() -> int:
    """Of one cache of the last level; 0 where the kernel does not tell."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text(encoding="ascii").strip()
        return int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1], 0)
    except (OSError, ValueError):
        return 0


def _free_host_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 16 * _CPU_BUFFER_BYTES


def _finish(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize()


def _repeated(place: torch.device, step: Callable[[], object]) -> Run:
    def run(iterations: int) -> None:
        with torch.inference_mode():
            for _ in range(iterations):
                step()
            _finish(place)

    return run


def _room(place: torch.device) -> None:
    """What the piece before has held goes back, so that sizes are as planned."""
    if place.type == "cuda":
        torch.cuda.empty_cache()


def _launches(place: torch.device) -> Run:
    value = torch.zeros(1, device=place)

    def chain() -> None:
        for _ in range(_LAUNCHES):
            value.add_(1.0)

    return _repeated(place, chain)


def _filled(place: torch.device, dtype: str, *shape: int) -> torch.Tensor:
    """Small values that differ: a device draws less power, and clocks higher, on zeros."""
    _room(place)
    tensor = torch.empty(shape, dtype=_DTYPES[dtype], device=place)
    pattern = torch.randn(1 << 16, device=place).to(tensor.dtype) * 0.02
    flat = tensor.view(-1)
    whole = flat.numel() // pattern.numel() * pattern.numel()
    flat[:whole].view(-1, pattern.numel()).copy_(pattern)
    flat[whole:].copy_(pattern[: flat.numel() - whole])
    return tensor


def _sum(place: torch.device, dtype: str, rows: int, columns: int) -> Run:
    matrix = _filled(place, dtype, rows, columns)
    return _repeated(place, matrix.sum)


def _vector(place: torch.device, dtype: str, rows: int, columns: int) -> Run:
    matrix, vector = _filled(place, dtype, rows, columns), _filled(place, dtype, columns)
    return _repeated(place, lambda: torch.mv(matrix, vector))


def _copy(place: torch.device, items: int) -> Run:
    source = _filled(place, "float32", items)
    target = torch.empty_like(source)
    return _repeated(place, lambda: target.copy_(source))


def _product(place: torch.device, dtype: str, rows: int, size: int) -> Run:
    """``rows`` x ``size`` times ``size`` x ``size``."""
    left, right = _filled(place, dtype, rows, size), _filled(place, dtype, size, size)
    out = torch.empty(rows, size, dtype=left.dtype, device=place)
    run = _repeated(place, lambda: torch.mm(left, right, out=out))

    def with_precision(iterations: int) -> None:
        torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
        run(iterations)

    return with_precision
