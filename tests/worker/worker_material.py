"""What a worker needs to run in a test: a model's facts, a workload, folders to write to, images with a twist."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench_core.contract.asked.protocol import MeasureProtocol
from bench_core.contract.measures.cell import CellEvents, CellResult, summarise
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records import layout
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.events import Event, parse_events
from bench_core.contract.records.outcome import MemoryEvidence, Verdict
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Prepared, Workload, WorkloadRef

REPOSITORY = Path(__file__).resolve().parents[2]
NULL_IMAGE = REPOSITORY / "images" / "null"
# The scripted engine's declarations, for images whose adapter is a twist of it.
NULL_OPTIONS = yaml.safe_dump({"options": yaml.safe_load((NULL_IMAGE / layout.MANIFEST_FILE).read_text())["options"]})
MODEL = ModelInfo(
    name="toy", folder="toy", digest="0" * 64, synthetic=True, architecture="LlamaForCausalLM", dtype="float32",
    parameters=1000, vocab_size=320, context_length=2048, hidden_size=64, intermediate_size=128, layers=2,
    attention_heads=4, kv_heads=2, head_dim=16, tied_embeddings=False, bos_token_id=1, eos_token_ids=(2,),
)  # fmt: skip
# The scripted engine at a pace that a test can wait for.
FAST = ("--option", "load_s=0", "--option", "ttft_s=0.001", "--option", "tpot_s=0.0002", "--max-new-tokens", "4")

# An adapter module that has the scripted engine as `NullAdapter`, and what a twist of it needs.
PREAMBLE = f"""\
import importlib.util
import os
import sys

from bench_core.contract.adapter import Completion

_spec = importlib.util.spec_from_file_location("null_adapter", {str(NULL_IMAGE / "adapter.py")!r})
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
NullAdapter = _module.NullAdapter
"""


def make_workload(prompts: Sequence[Sequence[int]]) -> Workload:
    """A workload of these token ids."""
    return Workload(
        name="toy", tokenizer="byte-level", max_prompt_tokens=max(map(len, prompts)), truncated=0, dropped_empty=0,
        duplicates=0, digest=prompts_sha256(prompts), prompts=tuple(tuple(prompt) for prompt in prompts),
    )  # fmt: skip


def random_prompts(count: int = 16, seed: int = 0) -> list[list[int]]:
    """Prompts of 5 to 40 token ids."""
    drawn = random.Random(seed)  # noqa: S311  # prompts, not secrets
    return [[drawn.randrange(3, 259) for _ in range(drawn.randrange(5, 41))] for _ in range(count)]


def make_spec(workload: Workload, **changes: Any) -> CellSpec:
    """A cell of the scripted engine on a workload."""
    given: dict[str, Any] = {
        "image": "null", "variant": "scripted", "label": "null scripted", "batching": "native", "token_times": "live",
        "batch_size": 2, "device": "cpu", "threads": 1, "model": MODEL, "artifact": "none", "artifact_digest": None,
        "options": {}, "max_new_tokens": 3, "length": "forced", "protocol": MeasureProtocol(),
        "workload": WorkloadRef(
            name="toy", digest=workload.digest, prompts=len(workload.prompts), longest_prompt_tokens=workload.longest
        ),
    }  # fmt: skip
    return CellSpec(**{**given, **changes})


def write_image(folder: Path, adapter: str = "", manifest: str = "", **files: str) -> Path:
    """An image named ``twisted``: ``adapter`` is code that defines ``Twisted``, ``files`` are further modules."""
    folder.mkdir(parents=True)
    twisted = adapter or "class Twisted(NullAdapter):\n    pass\n"
    (folder / "adapter.py").write_text(PREAMBLE + "\n\n" + twisted, encoding="utf-8")
    (folder / layout.MANIFEST_FILE).write_text(
        "name: twisted\ntitle: Twisted\nadapter: adapter:Twisted\nbatching: native\ntoken_times: live\n"
        "devices: [cuda, cpu]\npackages: []\n"
        "variants:\n  only: {artifact: none, default: true, options: {ttft_s: 0.0005, tpot_s: 0.0001}}\n"
        + manifest
        + NULL_OPTIONS,
        encoding="utf-8",
    )
    for name, content in files.items():
        (folder / f"{name}.py").write_text(content, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Place:
    """The four folders of a worker."""

    root: Path

    @classmethod
    def prepared(cls, root: Path, prompts: Sequence[Sequence[int]] | None = None) -> Place:
        """With a model and a workload in them, as ``prepare`` leaves them."""
        place = cls(root)
        (place.models / "toy").mkdir(parents=True)
        (place.models / "toy" / layout.MODEL_FILE).write_text(MODEL.to_json())
        place.data.mkdir()
        place.results.mkdir()
        (place.data / "w.json").write_text(make_workload(prompts or random_prompts()).to_json())
        (place.data / layout.PREPARED_FILE).write_text(Prepared(workload="w.json", model_folder="toy").to_json())
        return place

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def results(self) -> Path:
        return self.root / "results"

    def arguments(self, *arguments: str, image: Path = NULL_IMAGE) -> list[str]:
        """Of the worker's command line, on a CPU whatever machine the test runs on."""
        folders = {"--image-folder": image, "--data": self.data, "--models": self.models, "--results": self.results}
        return [
            *(text for option, folder in folders.items() for text in (option, str(folder))),
            *(() if "--device" in arguments else ("--device", "cpu")), *arguments,
        ]  # fmt: skip

    def start(self, *arguments: str, image: Path = NULL_IMAGE) -> subprocess.Popen[str]:
        """The worker as a process of its own, with pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "bench_core.worker", *self.arguments(*arguments, image=image)],
            cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip

    def run(self, *arguments: str, image: Path = NULL_IMAGE) -> Ran:
        """The worker from its start to its end."""
        process = self.start(*arguments, image=image)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        return Ran(process.returncode, out, err)

    def cell(self, run: str, cell: str) -> Cell:
        """What a run left of a cell."""
        return Cell(layout.cell_folder(self.results / run, cell))

    def tree(self) -> set[str]:
        """Every path below."""
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}


@dataclass(frozen=True)
class Ran:
    """How a worker ended and what it said."""

    code: int
    out: str
    err: str

    def lines(self) -> list[dict[str, Any]]:
        """Standard output, every line of which must be a JSON object."""
        found = [json.loads(line) for line in self.out.splitlines()]
        assert all(isinstance(line, dict) for line in found)
        return found


@dataclass(frozen=True)
class Cell:
    """A cell's folder."""

    folder: Path

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    @property
    def verdict(self) -> Verdict:
        return Verdict.read(self.folder / layout.OUTCOME_FILE)

    @property
    def spec(self) -> CellSpec:
        return CellSpec.read(self.folder / layout.SPEC_FILE)

    @property
    def result(self) -> CellResult:
        return CellResult.read(self.folder / layout.RESULT_FILE)

    @property
    def log(self) -> str:
        return (self.folder / layout.LOG_FILE).read_text(encoding="utf-8")

    def events(self) -> list[Event]:
        """Every line of the event log, each whole."""
        with (self.folder / layout.EVENTS_FILE).open("rb") as stream:
            return list(parse_events(stream, "events.jsonl"))

    def recomputed(self) -> CellResult:
        """The result that the event log gives."""
        events = CellEvents()
        for event in self.events():
            events.add(event)
        return summarise(self.folder.name, events)


def require_evidence(verdict: Verdict, held_bytes: int, exit_code: int | None) -> None:
    """A verdict on a bad end: a cause, memory at death (whether the engine could speak or not), and how it exited where
    it ended itself."""
    assert verdict.judged_by == "worker"
    assert verdict.cause
    memory = MemoryEvidence.of(verdict.evidence)
    assert memory.host_at_death is not None
    assert memory.host_peak is not None
    assert memory.host_peak >= memory.host_at_death > held_bytes
    if exit_code is not None:
        assert verdict.exit_code == exit_code
