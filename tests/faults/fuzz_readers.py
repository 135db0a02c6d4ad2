"""Readers of files that people and engines write, given damaged ones: each takes it or raises ``BadInput``.

``python tests/faults/fuzz_readers.py --inputs 100000`` (``make fuzz``) is the long run; tests take a few hundred.
Inputs are files of a real run and of this repository with bytes or values changed, and text that grammars make.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantised_files import gguf_bytes, gptq_file, llama_tensors

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellEvents, CellResult, summarise
from bench_core.contract.measures.max_batch import BatchTrial, MaxBatch, search_largest
from bench_core.contract.measures.min_memory import MinMemory, Trial, search_smallest
from bench_core.contract.models.artifact_tensors import given_form
from bench_core.contract.records import layout, strict_yaml
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.contract.records.events import parse_events, parse_stdout
from bench_core.contract.records.outcome import MemoryEvidence, Outcome, Verdict
from bench_core.contract.records.run import RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.drive.ask.request import Suite
from bench_core.report.tables.memory import explained_sheet
from bench_core.report.tables.searches import largest_sheets, smallest_sheet
from bench_core.runs.files import Unreadable, read_record
from bench_core.runs.load import load_run
from bench_core.verify.searches import search_differences

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "results" / "published" / "2026-11-23-cpu-smollm2-b"
SLOW_S = 5.0  # of the processor: an input of a few kilobytes that takes longer has found something as well

_STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, -(2**70), 1e308, -1e308, 5e-324, -0.0, "", "\x00", "../..", "/etc/passwd", "a" * 300,
    "\ud800", [], {}, [[]], [None], {"": None}, [0] * 50, "1e999", "null", "ok", 10**400, float("nan"), float("inf"),
)  # fmt: skip
_PUT_IN = (b"\x00", b"\xff", b"\n", b"{", b'"', b"9" * 400, b"9" * 5000, b"-", b"NaN", b"Infinity", b"\\ud800")
_YAML_PIECES = (
    "a: b\n", "- x\n", "? ", ": ", "&a [1]\n", "*a", "!!python/object/apply:os.system ['true']\n", "!!bool perhaps",
    "!!timestamp 2026-13-45", "!!binary '='", "<<: *a\n", "{", "}", "[", "]", '"', "'", "|\n", ">-\n", "\t", "\x00",
    "\ufeff", "name: x\n", "images: [null]\n", "batch_sizes: [1, 4]\n", "---\n", "...\n", "%YAML 9.9\n", "0x", ".inf",
    ".nan", "1:2:3", "\u2028", "#", "  ", "variants:\n", "options: {a: {b: 1}}\n", "é", "\udcff", "9" * 30, "9" * 5000,
    "-1.0e+400", "0x" + "f" * 40,
)  # fmt: skip


def _gguf(place: Path) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        (place / "model.gguf").write_bytes(data)
        given_form(place, "gguf-q4_k_m", ["model.gguf"])

    return read


def _gptq(place: Path) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        (place / "model.safetensors").write_bytes(data)
        given_form(place, "gptq-int4-g128", ["model.safetensors"])

    return read


def _suite(data: bytes) -> None:
    strict_yaml.parse_as(Suite, _text(data), "suite.yaml")


def _manifest(data: bytes) -> None:
    manifest = strict_yaml.parse_as(Manifest, _text(data), "image.yaml")
    for device in manifest.devices:
        manifest.variant(manifest.default_variant(device))


def _events(data: bytes) -> None:
    events = CellEvents()
    for event in parse_events(data.splitlines(keepends=True), "events.jsonl"):
        events.add(event)
    summarise("a cell", events)


def _stdout(data: bytes) -> None:
    parse_stdout(data)


def _text(data: bytes) -> str:
    """As ``Suite.load`` and ``Manifest.load`` read a file; what is not UTF-8 they refuse."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise BadInput("not UTF-8") from error


class RunFolder:
    """A real run of which one file is replaced by the input; ``load_run`` must show it or refuse it as a whole."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "run"
        shutil.copytree(PUBLISHED, self.folder)
        self.cell = sorted((self.folder / "cells").iterdir())[0]

    def reader(self, path: Path) -> Callable[[bytes], None]:
        """Reads the run with this content in the place of one file, and then puts back what was there."""
        whole = path.read_bytes()

        def read(data: bytes) -> None:
            path.write_bytes(data)
            try:
                view = load_run(self.folder)
            finally:
                path.write_bytes(whole)
            for row in view.rows:
                if row.result is not None and row.damage is not None:
                    raise AssertionError("a damaged row shows a number")

        return read

    def search_reader(self, place: str, kind: type[MaxBatch] | type[MinMemory]) -> Callable[[bytes], None]:
        """Reads what a search left, words it and verifies it; none that can be read may be too odd."""
        path = self.folder / place / "null.scripted.json"
        path.parent.mkdir()
        view = load_run(self.folder)

        def read(data: bytes) -> None:
            path.write_bytes(data)
            try:
                found = read_record(self.folder, path, kind)
            except Unreadable as refused:
                raise BadInput(refused.damage.what) from refused
            if isinstance(found, MaxBatch):
                with_it = replace(view, max_batches=(found,))
                list(largest_sheets(with_it))
            elif found is not None:
                with_it = replace(view, searches=(found,))
                list(smallest_sheet(with_it))
                list(explained_sheet(with_it))
            else:
                return
            list(search_differences(self.folder, with_it))

        return read


@dataclass(frozen=True)
class Target:
    """A reader and whole inputs to start from."""

    read: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    yaml: bool = False
    binary: bool = False


def targets(place: Path) -> dict[str, Target]:
    """Every reader under test."""
    run = RunFolder(place)
    suites = tuple(path.read_bytes() for path in sorted((ROOT / "suites").glob("*.yaml")))
    manifests = tuple(path.read_bytes() for path in sorted((ROOT / "images").glob("*/image.yaml")))
    record = (run.folder / layout.RUN_FILE).read_bytes()
    files = {name: run.cell / name for name in (layout.SPEC_FILE, layout.RESULT_FILE, layout.OUTCOME_FILE)}
    whole = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
    log = _some_events(run.cell)
    artifact = ArtifactRecord(
        artifact="x", source_digest="0", converter_digest="r", made_by="m", seconds=1.0, digest="d", files=()
    ).to_json()
    found = {
        "suite.yaml": Target(_suite, suites, yaml=True),
        "image.yaml": Target(_manifest, manifests, yaml=True),
        "events.jsonl": Target(_events, (log,)),
        "a worker's line": Target(_stdout, (b'{"type":"cell_ended","cell":"c","outcome":"ok","cause":""}',)),
        "artifact.json": Target(lambda data: _parsed(ArtifactRecord, data), (artifact.encode(),)),
        "suite.json": Target(lambda data: _parsed(Suite, data), (Suite().to_json().encode(),)),
        "run.json": Target(lambda data: _parsed(RunRecord, data), (record,)),
        "max-batch": Target(run.search_reader(layout.MAX_BATCH_FOLDER, MaxBatch), (_search().encode(),)),
        "min-memory": Target(run.search_reader(layout.MIN_MEMORY_FOLDER, MinMemory), (_budgets().encode(),)),
        "run.json of a folder": Target(run.reader(run.folder / layout.RUN_FILE), (record,)),
    }
    found |= {
        "gguf": Target(_gguf(place), (gguf_bytes(llama_tensors({"*": "Q4_K"}, 256, 256)),), binary=True),
        "gptq": Target(_gptq(place), (gptq_file(place / "whole.safetensors").read_bytes(),), binary=True),
    }
    kinds = {layout.SPEC_FILE: CellSpec, layout.RESULT_FILE: CellResult, layout.OUTCOME_FILE: Verdict}
    for name, content in whole.items():
        kind = kinds[name]
        found[name] = Target(lambda data, kind=kind: _parsed(kind, data), (content,))  # type: ignore[misc]
        found[f"{name} of a folder"] = Target(run.reader(files[name]), (content,))
    return found


def _search() -> str:
    """A whole search, as its driver writes it."""

    def attempt(size: int) -> BatchTrial:
        outcome, held = (Outcome.OK if size <= 3 else Outcome.OOM_KV), MemoryEvidence(host_at_death=1 << 30).words
        return BatchTrial(batch_size=size, number=size, outcome=outcome, cause="no memory", evidence=held)

    found = search_largest(8, attempt)
    record = MaxBatch(
        image="null", variant="scripted", conditions={"model": "x"}, limit=8, limited_by="prompts", **dict(found)
    )
    return record.to_json()


def _budgets() -> str:
    """The same for the smallest budget."""

    def attempt(value: float, _reference_tok_s: float | None) -> Trial:
        good = value >= 300
        outcome = Outcome.OK if good else Outcome.OOM_KV
        return Trial(value=value, number=1, outcome=outcome, sustained=good, output_throughput_tok_s=9.0)

    found = search_smallest(10, 1000, attempt, whole=True, guess=lambda _: 290)
    record = MinMemory(cell="null.scripted.b1", option="budget", unit="bytes", low=10, high=1000, **dict(found))
    return record.to_json()


def _parsed(kind: Any, data: bytes) -> None:
    kind.parse(data, "file")


def _some_events(cell: Path) -> bytes:
    """Two lines of each kind of a real log, so that one input is a few kilobytes and numbers follow from it."""
    import gzip

    path = cell / layout.EVENTS_FILE
    content = (
        path.read_bytes() if path.exists() else gzip.decompress((cell / layout.COMPRESSED_EVENTS_FILE).read_bytes())
    )
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for line in content.splitlines(keepends=True):
        event = json.loads(line)
        kind = (event["type"], event.get("phase", ""))
        seen[kind] += 1
        kept += [line] if seen[kind] <= 2 and len(line) < 8000 else []
    return b"".join(kept)


def spoiled(target: Target, chance: random.Random) -> bytes:  # noqa: PLR0911  # one for each way
    """One input."""
    seed = chance.choice(target.seeds)
    way = chance.randrange(6)
    if way == 0:
        return seed[: chance.randrange(len(seed) + 1)]
    if way == 1:
        return _bytes_changed(seed, chance)
    if way == 2 and target.yaml:
        return "".join(chance.choice(_YAML_PIECES) for _ in range(chance.randrange(1, 30))).encode(
            "utf-8", "surrogatepass"
        )
    if target.binary and way in (2, 3, 5):
        return _numbers_changed(seed, chance)
    if way == 3:
        return _nested(chance)
    if way == 4:
        return bytes(chance.randrange(256) for _ in range(chance.randrange(64)))
    if target.yaml:
        lines = seed.splitlines(keepends=True)
        lines.insert(chance.randrange(len(lines) + 1), chance.choice(_YAML_PIECES).encode("utf-8", "surrogatepass"))
        return b"".join(lines)
    return _values_changed(seed, chance)


def _bytes_changed(seed: bytes, chance: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.randrange(1, 8)):
        at = chance.randrange(len(data) + 1)
        if chance.random() < 0.5:
            data[at : at + chance.randrange(4)] = bytes([chance.randrange(256)])
        else:
            data[at:at] = chance.choice(
                (b"\x00", b"\xff", b"\n", b"{", b'"', b"9" * 400, b"9" * 5000, b"-", b"NaN", b"Infinity", b"\\ud800")
            )
    return bytes(data)


def _numbers_changed(seed: bytes, chance: random.Random) -> bytes:
    """A binary file with counts, lengths and kinds of its first kilobyte replaced."""
    data = bytearray(seed)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(min(len(data), 1024))
        number = chance.choice((0, 1, 2, 9, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
        size = chance.choice((1, 4, 8))
        data[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(data)


def _nested(chance: random.Random) -> bytes:
    depth = chance.choice((10, 19, 21, 200, 5000))
    opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"{a: ", b"}"), (b"- ", b"")))
    return opening * depth + b"1" + closing * depth * chance.randrange(2)


def _values_changed(seed: bytes, chance: random.Random) -> bytes:
    """A JSON document, or one line of several, with a value replaced, removed or added."""
    lines = seed.splitlines(keepends=True) if b"\n{" in seed.strip() else [seed]
    at = chance.randrange(len(lines))
    document = json.loads(lines[at])
    _change(document, chance)
    lines[at] = json.dumps(document).encode("utf-8", "surrogatepass") + b"\n"
    if len(lines) > 1 and chance.random() < 0.2:
        chance.shuffle(lines)
    return b"".join(lines)


def _change(document: Any, chance: random.Random) -> None:
    here = document
    while True:
        keys: list[Any] = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(here[key], (dict, list)) and here[key] and chance.random() < 0.7:
            here = here[key]
            continue
        what = chance.randrange(3)
        if what == 0:
            here[key] = copy.deepcopy(chance.choice(_STRANGE))
        elif what == 1:
            del here[key]
        elif isinstance(here, dict):
            here[chance.choice(("x", "", key + "_", "type"))] = copy.deepcopy(chance.choice(_STRANGE))
        else:
            here.append(copy.deepcopy(chance.choice(_STRANGE)))
        return


@dataclass
class Found:
    """What a reader did that it must not."""

    target: str
    data: bytes
    what: str


def fuzz(inputs: int, seed: int, place: Path) -> tuple[Counter[str], list[Found]]:
    """Reads ``inputs`` inputs; how many each target took or refused, and what went wrong."""
    chance = random.Random(seed)  # noqa: S311  # inputs, not secrets
    every = targets(place)
    # Reading a whole run takes long; most inputs go to the readers themselves.
    names = [name for name in every for _ in range(1 if name.endswith("of a folder") else 12)]
    counts: Counter[str] = Counter()
    found: list[Found] = []
    for _ in range(inputs):
        name = chance.choice(names)
        data = spoiled(every[name], chance)
        counts.update(_read(name, every[name], data, found))
    return counts, found


def _read(name: str, target: Target, data: bytes, found: list[Found]) -> Iterable[str]:
    started = time.process_time()
    try:
        target.read(data)
        yield f"{name}: taken"
    except BadInput as error:
        yield f"{name}: refused"
        if "\n" in str(error):
            found.append(Found(name, data, f"a cause of several lines: {error!s:.200}"))
    except BaseException as error:  # noqa: BLE001  # anything else is what this looks for
        found.append(Found(name, data, f"{type(error).__name__}: {error!s:.200}"))
    if time.process_time() - started > SLOW_S:
        found.append(Found(name, data, f"took {time.process_time() - started:.1f} s"))


def main() -> int:
    """The command line; exits with 1 if any input did something else than being taken or refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llm-bench-fuzz-") as place:
        counts, found = fuzz(given.inputs, given.seed, Path(place))
    for line, count in sorted(counts.items()):
        sys.stdout.write(f"{count:8} {line}\n")
    for one in found[:50]:
        sys.stdout.write(f"{one.target}: {one.what}\n    {one.data[:300]!r}\n")
    sys.stdout.write(f"{given.inputs} inputs, {len(found)} faults\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
