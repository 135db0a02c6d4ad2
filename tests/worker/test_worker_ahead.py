"""What an image's build makes ahead is what a worker would make itself, and is not taken where it may not be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import typing
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from worker_material import FAST, REPOSITORY, Place

from bench_core.worker.ahead import FILE, Ahead, texts_compiled

# A worker's imports; then what it has of each record and reader, and how many schemas pydantic made for that.
LOOK = """
import json, re, sys
import bench_core.worker.__main__
from pydantic._internal._generate_schema import GenerateSchema
from bench_core.contract.records.record import READERS, name_of, records

made, clean = [], GenerateSchema.clean_schema
GenerateSchema.clean_schema = lambda self, schema: made.append(1) or clean(self, schema)
found = {}
for reader in READERS:
    found[reader.name] = repr(reader.validator)
for record in records():
    record.model_rebuild()
    found[name_of(record)] = repr(record.__pydantic_validator__) + repr(record.__pydantic_serializer__)
# Addresses differ, and so does the order of what is looked up by its hash.
between = re.compile(r"(?:0x[0-9a-f]+|[\\s,(){}\\[\\]])+")
json.dump([len(made), {name: sorted(between.split(text)) for name, text in found.items()}], sys.stdout)
"""


class Clone:
    """The suite's code as an image has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for room in ("contract", "system", "worker"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / "bench_core" / room, folder / "bench_core" / room, ignore=ignored)
        shutil.copy(REPOSITORY / "bench_core" / "__init__.py", folder / "bench_core")
        self.file = folder / FILE.relative_to(REPOSITORY)

    def python(self, *words: str) -> str:
        """What Python prints, with this code."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONHASHSEED": "0"}
        done = subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    def look(self) -> tuple[int, dict[str, list[str]]]:
        """See ``LOOK``."""
        made, found = json.loads(self.python("-c", LOOK))
        return made, found


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """With the file."""
    made = Clone(tmp_path_factory.mktemp("clone"))
    made.python("-m", "bench_core.worker.ahead")
    return made


def test_what_is_read_and_written_with_is_the_same(clone: Clone, tmp_path: Path) -> None:
    made, found = clone.look()
    without, expected = Clone(tmp_path).look()
    assert len(expected) > 80
    assert without > 80
    assert made == 1  # of a record that holds a function without a name
    assert found == expected


def test_nothing_is_taken_of_another_source(tmp_path: Path) -> None:
    other = Clone(tmp_path)
    other.python("-m", "bench_core.worker.ahead")
    source = other.folder / "bench_core" / "contract" / "records" / "spec.py"
    at_s = source.stat().st_mtime + 10
    os.utime(source, (at_s, at_s))
    made, _ = other.look()
    assert made > 80


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda held: held[:1000], lambda held: b"3.9" + held, lambda _: b"x"]
)
def test_a_file_that_is_no_such_file_is_none(clone: Clone, tmp_path: Path, damage: Any) -> None:
    file = tmp_path / "ahead.bin"
    file.write_bytes(damage(clone.file.read_bytes()))
    assert (Ahead(file).codes, Ahead(file).schemas()) == ({}, {})


def test_a_cell_is_measured_alike(clone: Clone, tmp_path: Path) -> None:
    place = Place.prepared(tmp_path)
    found = []
    for name, code in (("with", clone.folder), ("without", REPOSITORY)):
        words = place.arguments("--run-id", name, "--batch-size", "2", "--max-batches", "2", *FAST)
        environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "bench_core.worker", *words]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        (folder,) = (place.results / name / "cells").iterdir()
        lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
        events = [event for event in map(json.loads, lines) if event["type"] != "telemetry"]
        told = [(event["type"], list(event), event.get("outputs"), event.get("harness")) for event in events]
        found.append((told, json.loads((folder / "spec.json").read_text(encoding="utf-8"))))
    assert found[0] == found[1]


def test_classes_and_annotations_are_what_they_are_without_it() -> None:
    codes: dict[str, CodeType] = {}
    for kept in (0, len(codes) or 1):  # compiled the first time, taken the second
        with texts_compiled(codes):
            assert len(codes) >= kept

            @dataclass(frozen=True)
            class Point:
                x: int
                y: int = 2

            assert typing.get_type_hints(Point, localns={"int": float}) == {"x": float, "y": float}
        assert repr(Point(3)).endswith("Point(x=3, y=2)")
        assert Point(1) == Point(1, 2) != Point(2, 1)
        with pytest.raises(FrozenInstanceError):
            Point(1).x = 2  # type: ignore[misc]
    with texts_compiled(codes), pytest.raises(SyntaxError, match="no type"):
        typing.ForwardRef("no type")
    compiled = len(codes)
    typing.ForwardRef("complex")
    assert len(codes) == compiled  # Python compiles for itself again
