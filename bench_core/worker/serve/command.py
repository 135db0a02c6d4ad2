"""The command of a server, made of what image.yaml says."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.asked.server import PLACE, ServerEntry
from bench_core.contract.errors import BadInput
from bench_core.contract.models.model_work import kv_bytes_per_token
from bench_core.contract.records import layout
from bench_core.contract.records.spec import CellSpec
from bench_core.system.machine import memory_bytes
from bench_core.system.nvml import visible_gpus
from bench_core.worker.resolve import MeasureRequest
from bench_core.worker.sample.cgroup import memory_limit_bytes

_ITEM_BYTES = {"float32": 4, "f32": 4, "float16": 2, "bfloat16": 2, "f16": 2, "bf16": 2, "q8_0": 34 / 32}
_SHARE = 0.9  # of the device's memory: the rest is for what the engine computes in
_BLOCK_TOKENS = 256  # a slot's cache is of whole blocks; llama.cpp's are the largest


def filled(words: tuple[str, ...], places: Mapping[str, str]) -> list[str]:
    """Words with their places filled in.

    Raises:
        BadInput: a place that is none.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in places:
            raise BadInput(f"serve: {{{match[1]}}} is no place", f"places: {', '.join(sorted(places))}")
        return places[match[1]]

    return [PLACE.sub(value, word) for word in words]


def words_of(manifest: Manifest, spec: CellSpec, at_once: frozenset[int | None]) -> tuple[str, ...]:
    """The words as image.yaml has them, for one variant: command, variant, prefix cache, split over GPUs.

    Args:
        at_once: see ``MeasureRequest``.

    Raises:
        BadInput: the image does not serve it, or not on several GPUs.
    """
    entry = manifest.serve
    variant = manifest.variants[spec.variant]
    if entry is None or variant.serve is None or spec.serve is None:
        raise BadInput(f"image {manifest.name} does not serve its variant {spec.variant}", "see serve: in image.yaml")
    cache = entry.prefix_cache(on=spec.serve.prefix_cache).words(idle=None in at_once or len(at_once) > 1)
    split: tuple[str, ...] = ()
    if spec.gpus > 1:
        reason = manifest.why_not_split(spec.variant, served=True)
        if reason or manifest.split is None or manifest.split.serve is None:
            raise BadInput(reason, "see split: in image.yaml")
        split = manifest.split.serve
    return (*entry.command, *variant.serve, *cache, *split)


def slots_of(manifest: Manifest, request: MeasureRequest, longest: int) -> int:
    """Requests at once that the server is started for: as many as wanted. Where it takes memory for each at its start:
    as many as there is memory for, and one at least (which then fails with the engine's own words).

    Args:
        longest: tokens of the longest request, prompt and output.

    Raises:
        BadInput: the option that ``slot_cache`` names has a value of unknown size.
    """
    if manifest.serve is None:
        raise BadInput(f"image {manifest.name} has no server", "see serve: in image.yaml")
    spec = request.cells[0]
    cache = manifest.serve.cache_on(spec.device)
    wanted = manifest.serve.wanted_slots(request.at_once)
    if cache is None:
        return wanted
    kind = str(spec.options[cache.option])
    if kind not in _ITEM_BYTES:
        raise BadInput(f"serve: {cache.option}={kind}: the size of such a number is not known")
    tokens = -(-longest // _BLOCK_TOKENS) * _BLOCK_TOKENS
    slot_bytes = kv_bytes_per_token(spec.model, _ITEM_BYTES[kind]) * tokens
    weights = sum(file.stat().st_size for file in request.artifact.rglob("*") if file.is_file())
    free = _SHARE * _device_bytes(spec.cards) - weights
    if not slot_bytes:  # tensors under other names, from which nothing follows; the check says so
        return wanted
    return max(1, min(wanted, int(free / slot_bytes)))


def _device_bytes(cards: Sequence[str]) -> int:
    """Memory of these GPUs together, or that the container or the host has for a CPU.

    A GPU that NVML does not name is taken to hold as much as the host does: the engine itself says what does not fit.
    """
    if not cards:
        return min(memory_limit_bytes() or memory_bytes(), memory_bytes())
    return sum(gpu.memory_bytes for gpu in visible_gpus() if gpu.uuid in cards) or memory_bytes()


def command_of(
    manifest: Manifest, request: MeasureRequest, host: str, port: int, *, longest: int, slots: int
) -> list[str]:
    """The command that starts the server for the request's cells, which differ in their load alone.

    Args:
        longest: tokens of the longest request, prompt and output.
        slots: see ``slots_of``.
    """
    places = _places(request, host, port, longest=longest, slots=slots)
    return filled(words_of(manifest, request.cells[0], request.at_once), places)


def check_command_of(
    entry: ServerEntry, request: MeasureRequest, host: str, port: int, *, longest: int, slots: int
) -> list[str]:
    """The command that must succeed before the server is started; empty where the image has none, or the server reads
    an artifact that was converted or given. Else as for ``command_of``."""
    if request.cells[0].artifact != layout.HF_ARTIFACT:
        return []
    return filled(entry.check, _places(request, host, port, longest=longest, slots=slots))


def facts_command_of(
    entry: ServerEntry, request: MeasureRequest, host: str, port: int, *, longest: int, slots: int, pid: int
) -> list[str]:
    """The command that tells how the server with this process id runs; empty where the image has none. Else as for
    ``command_of``."""
    return filled(entry.facts, {**_places(request, host, port, longest=longest, slots=slots), "pid": str(pid)})


def _places(request: MeasureRequest, host: str, port: int, *, longest: int, slots: int) -> dict[str, str]:
    """What a command's places are filled with."""
    spec = request.cells[0]
    return {
        **{name: _written(value) for name, value in spec.options.items()},
        "python": sys.executable,
        "bin": str(Path(sys.executable).parent),
        "image": str(request.image_folder),
        "artifact": str(request.artifact),
        "host": host,
        "port": str(port),
        "context_tokens": str(longest),
        "slots": str(slots),
        "slot_tokens": str(slots * longest),
        "threads": str(spec.threads),
        "gpus": str(spec.gpus),
        "even_shares": ",".join(["1"] * spec.gpus),
    }


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
