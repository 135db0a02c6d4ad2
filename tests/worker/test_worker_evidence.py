"""A cell that ends badly says what was in use when it did, and what its engine said last."""

from __future__ import annotations

from pathlib import Path

import pytest
from worker_material import FAST, Place, require_evidence, write_image

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.records.outcome import MemoryEvidence, Outcome
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.worker.sample import cgroup
from bench_core.worker.supervise.last_memory import LastMemory

HELD = 32 << 20


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.prepared(tmp_path)


@pytest.mark.parametrize(
    ("phase", "outcome"), [("load", Outcome.OOM_LOAD), ("prepare", Outcome.OOM_KV), ("generate", Outcome.OOM_KV)]
)
def test_an_engine_that_aborts_for_want_of_memory_has_its_evidence(place: Place, phase: str, outcome: Outcome) -> None:
    """All other bad ends: test_worker_cli.py, together with what becomes of the other cells."""
    fails = ("--option", f"fail_in={phase}", "--option", "fail_how=oom_abort", "--option", f"load_bytes={HELD}")
    place.run("--batch-size", "2", "--run-id", "r", *FAST, *fails)
    verdict = place.cell("r", "null.scripted.b2").verdict
    assert (verdict.outcome, verdict.phase) == (outcome, "warmup" if phase == "generate" else phase)
    require_evidence(verdict, HELD if phase != "load" else 1 << 20, -6)
    assert verdict.evidence["last_line"] == "scripted: out of memory"


def test_words_of_another_cell_do_not_count(tmp_path: Path) -> None:
    """What was printed in the cell before, where memory was short and the engine coped, is not why this one died."""
    code = (
        "class Twisted(NullAdapter):\n"
        "    def generate(self, prompts, decoding, on_tokens):\n"
        "        if len(prompts) == 1:\n"
        "            print('scripted: out of memory')\n"
        "        else:\n"
        "            os.abort()\n"
        "        return super().generate(prompts, decoding, on_tokens)\n"
    )
    image = write_image(tmp_path / "image", code, 'out_of_memory_signs: ["Scripted: out of memory"]\n')
    place = Place.prepared(tmp_path / "place")
    place.run("--batch-size", "1,2", "--run-id", "r", "--max-new-tokens", "4", image=image)
    assert place.cell("r", "twisted.only.b1").verdict.outcome is Outcome.OK
    assert place.cell("r", "twisted.only.b2").verdict.outcome is Outcome.CRASHED


def test_an_engine_that_aborts_where_it_has_no_memory_declares_its_words() -> None:
    signs = Manifest.load(Catalogue().get("llama-cpp-python").folder).out_of_memory_signs
    assert "cuda error: out of memory" in signs


def test_what_is_read_after_the_engines_end_is_not_the_engines() -> None:
    memory = LastMemory()
    assert memory.evidence(99) == MemoryEvidence()
    for sample in ((10, 500), (40, 900), (30, 800), (0, 100), (None, 100)):
        memory.add(*sample)
    assert memory.evidence(99) == MemoryEvidence(30, 40, 800, 900, 99)


def test_the_highest_readings_are_those_of_the_cell() -> None:
    memory = LastMemory()
    memory.add(100, 1000)
    memory.add(20, None)
    memory.begin_cell()
    assert memory.evidence(None) == MemoryEvidence(20, 20, None, None)
    memory.add(25, 300)
    memory.add(21, 200)
    assert memory.evidence(None) == MemoryEvidence(21, 25, 200, 300)


@pytest.mark.parametrize(
    ("text", "limit"), [("1073741824\n", 1 << 30), ("max\n", None), ("9223372036854771712\n", None), ("", None)]
)
def test_the_containers_memory_limit_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, limit: int | None
) -> None:
    """Version 2's file and version 1's, each with its word for "none"."""
    (tmp_path / "limit").write_text(text)
    monkeypatch.setattr(cgroup, "LIMIT_FILES", (str(tmp_path / "missing"), str(tmp_path / "limit")))
    assert cgroup.memory_limit_bytes() == limit
