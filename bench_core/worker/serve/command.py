"""The command of a server, made of what image.yaml says."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.asked.server import PLACE
from bench_core.contract.errors import BadInput
from bench_core.contract.records.spec import CellSpec
from bench_core.worker.resolve import MeasureRequest

DEFAULT_SLOTS = 256  # requests at once where load points do not say it: an open loop


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


def words_of(manifest: Manifest, spec: CellSpec) -> tuple[str, ...]:
    """The words as image.yaml has them, for one variant: command, variant, prefix cache, split over GPUs.

    Raises:
        BadInput: the image does not serve it, or not on several GPUs.
    """
    entry = manifest.serve
    variant = manifest.variants[spec.variant]
    if entry is None or variant.serve is None or spec.serve is None:
        raise BadInput(f"image {manifest.name} does not serve its variant {spec.variant}", "see serve: in image.yaml")
    cache = entry.prefix_cache_on if spec.serve.prefix_cache else entry.prefix_cache_off
    split: tuple[str, ...] = ()
    if spec.gpus > 1:
        reason = manifest.why_not_split(spec.variant, served=True)
        if reason or manifest.split is None or manifest.split.serve is None:
            raise BadInput(reason, "see split: in image.yaml")
        split = manifest.split.serve
    return (*entry.command, *variant.serve, *cache.arguments, *split)


def command_of(
    manifest: Manifest, request: MeasureRequest, cells: tuple[CellSpec, ...], host: str, port: int, longest: int
) -> list[str]:
    """The command that starts the server for these cells, which differ in their load alone.

    Args:
        longest: tokens of the longest request, prompt and output.
    """
    spec = cells[0]
    loads = [cell.load for cell in cells]
    closed = [load.concurrency for load in loads if load is not None and load.concurrency is not None]
    open_loop = any(load is not None and load.open_loop for load in loads)
    slots = max([*closed, *([DEFAULT_SLOTS] if open_loop else [])])
    places = {
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
    return filled(words_of(manifest, spec), places)


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
