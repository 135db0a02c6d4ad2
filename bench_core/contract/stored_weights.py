"""How many bytes of weights an artifact holds, and how many of them are the embedding table."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field

from bench_core.contract.artifact import ArtifactRecord
from bench_core.contract.record import Record
from bench_core.contract.tensor_names import TOKEN_TABLES, is_buffer, is_expert

_WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_LONGEST_HEADER_BYTES = 100 * 1024 * 1024  # the format's own limit


class StoredWeights(Record):
    """Weights as they are stored.

    Attributes:
        total_bytes: of all weights, where the format's header says it, else of the files that hold weights.
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
    total = sum(file.size_bytes for file in safe or files)
    return StoredWeights(total_bytes=total) if total else None


def tensor_bytes(path: Path) -> dict[str, int]:
    """Weight to size of a safetensors file, from its header: eight bytes of length (little-endian), then JSON. Buffers
    that stand beside the weights are left out.

    Raises:
        OSError: it cannot be read.
        ValueError, LookupError, TypeError, RecursionError: not such a file, or one that says more than it holds.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= _LONGEST_HEADER_BYTES:
            raise ValueError("no header of safetensors")
        header: object = json.loads(stream.read(length))
    held = path.stat().st_size - 8 - length
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    sizes = {}
    for name, entry in header.items():
        if name != "__metadata__" and not is_buffer(name, entry["shape"]):
            begin, end = entry["data_offsets"]
            if not (isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end <= held):
                raise ValueError(f"the tensor {name[:80]} does not lie in the file")
            sizes[name] = end - begin
    return sizes
