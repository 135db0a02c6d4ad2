"""Real material in small: stories written for these tests, and a tiny true model folder."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from bench_core.prepare.models.shapes import Shape
from bench_core.prepare.models.synthetic import write_synthetic

STORIES = (
    "Anna found a snail on the step. It had a blue shell. She gave it a leaf, and it stayed all day.",
    "The kite wanted to see the sea. One windy morning it broke its string and went to look.",
    "Grandpa's boots were too big for Sam, so he filled them with socks and walked like a giant.",
    "A frog sat on the clock and would not move. All day long it was ten past frog.",
)
# Small enough for a test to write many of them, and a true model: two shards, if asked, and a tokenizer that fits.
TOY = Shape(272, 16, 32, 1, 2, 1, 128, "float32")


def toy_model(folder: Path, *, shape: Shape = TOY, seed: int = 0, shard_bytes: int = 1 << 30) -> Path:
    """A model folder as a person has one."""
    folder.mkdir(parents=True)
    write_synthetic(shape, seed, folder, shard_bytes=shard_bytes)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Sets keys of a JSON file; ``None`` deletes a key."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        content.pop(key, None)
        if value is not None:
            content[key] = value
    path.write_text(json.dumps(content))


def safetensors_bytes(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of the safetensors format with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def jsonl(path: Path, rows: list[Any]) -> Path:
    """Writes one JSON value per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Relative path to content of every file, lock files left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".locks" not in path.parts
    }
