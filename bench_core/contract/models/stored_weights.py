"""How many bytes of weights an artifact holds, and how many of them are the embedding table."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from pydantic import Field

from bench_core.contract.errors import BadInput
from bench_core.contract.models.tensor_names import TOKEN_TABLES, is_buffer, is_expert
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.contract.records.record import Record

_WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_GGUF_EMBEDDINGS = "token_embd.weight"
_LONGEST_HEADER_BYTES = 100 * 1024 * 1024  # the format's own limit


class StoredWeights(Record):
    """Weights as they are stored.

    Attributes:
        total_bytes: of all tensors, where the format's header says it (safetensors, GGUF), else of the files that hold
            weights: CTranslate2's ``model.bin`` holds nothing else but their names.
        embedding_bytes: of the table of input embeddings; ``None`` where the header does not say it.
        expert_bytes: of routed experts; ``None`` where the header does not say it, and in older records.
    """

    total_bytes: int = Field(gt=0)
    embedding_bytes: int | None = Field(None, ge=0)
    expert_bytes: int | None = Field(None, ge=0)


def stored_weights(folder: Path, record: ArtifactRecord) -> StoredWeights | None:
    """Of an artifact whose record has been checked; ``None`` where no file holds weights. Reads headers only."""
    files = [file for file in record.files if file.path.endswith(_WEIGHT_SUFFIXES)]
    if not files:
        return None
    # A folder with both forms of the same weights: engines read the safe one.
    safe = [file for file in files if file.path.endswith(".safetensors")]
    if safe:
        try:
            sizes = {name: size for file in safe for name, size in tensor_bytes(folder / file.path).items()}
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            sizes = {}
        if sum(sizes.values()) > 0:
            embeddings = [size for name, size in sizes.items() if name.endswith(TOKEN_TABLES)]
            return StoredWeights(
                total_bytes=sum(sizes.values()),
                embedding_bytes=embeddings[0] if len(embeddings) == 1 else None,
                expert_bytes=sum(size for name, size in sizes.items() if is_expert(name)),
            )
    if not safe and len(files) == 1 and files[0].path.endswith(".gguf"):
        from bench_core.contract.models.gguf_header import read_gguf_header  # noqa: PLC0415  # of one format

        with contextlib.suppress(BadInput):
            header = read_gguf_header(folder / files[0].path)
            table = header.tensors.get(_GGUF_EMBEDDINGS)
            return StoredWeights(
                total_bytes=header.weights_bytes,
                embedding_bytes=table.size_bytes if table is not None else None,
                expert_bytes=sum(tensor.size_bytes for name, tensor in header.tensors.items() if is_expert(name)),
            )
    total = sum(file.size_bytes for file in safe or files)
    return StoredWeights(total_bytes=total) if total else None


def tensor_bytes(path: Path) -> dict[str, int]:
    """Weight to size of a safetensors file, from its header: eight bytes of length (little-endian), then JSON. Buffers
    that stand beside the weights are left out.

    Raises:
        OSError: it cannot be read.
        ValueError, LookupError, TypeError, RecursionError: not such a file, or one that says more than it holds.
    """
    header, begin = safetensors_header(path)
    held = path.stat().st_size - begin
    sizes = {}
    for name, entry in header.items():
        if not is_buffer(name, entry["shape"]):
            start, stop = entry["data_offsets"]
            if not (isinstance(start, int) and isinstance(stop, int) and 0 <= start <= stop <= held):
                raise ValueError(f"the tensor {name[:80]} does not lie in the file")
            sizes[name] = stop - start
    return sizes


def safetensors_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The entries of such a file's tensors, and the byte at which their data begins.

    Raises:
        OSError: it cannot be read.
        ValueError, RecursionError: not such a file.
    """
    import json  # noqa: PLC0415  # of one format

    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= _LONGEST_HEADER_BYTES:
            raise ValueError("no header of safetensors")
        header: object = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError("an entry of its header is not a JSON object")
    return entries, 8 + length
