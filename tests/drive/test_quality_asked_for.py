"""What a person asks for in matters of quality reaches the plan, the engine and the run's record, and stays with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Drive

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.errors import BadInput
from bench_core.contract.measures.quality import QualityBounds
from bench_core.contract.records.run import RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.drive.ask.request import Suite
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import make_plan

FAST = ("--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.001")
PROMPTS = ("--samples", "8", "--max-new-tokens", "4", "--no-harness-check")
WHERE = ("--images", "null", "--device", "cpu", "--launcher", "process", "--run-id", "mine")
RUN = (*WHERE, *PROMPTS, *FAST, "--batch-sizes", "1,4")
MANIFEST = """\
name: e
title: E
adapter: a:B
batching: native
token_times: live
devices: [cpu]
packages: []
variants:
  best: {{artifact: hf, default: true, reference: true{more}}}
  next: {{artifact: hf, stands_in: 2}}
  last: {{artifact: hf}}
"""


def _manifest(folder: Path, more: str = "") -> Manifest:
    (folder / "image.yaml").write_text(MANIFEST.format(more=more), encoding="utf-8")
    return Manifest.load(folder)


def test_the_reference_is_zero_and_stand_ins_have_their_place(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path)
    ranks = [manifest.reference_rank(name) for name in ("best", "next", "last", "unknown")]
    assert ranks == [0, 2, None, None]
    with pytest.raises(BadInput, match="does not stand in for itself"):
        _manifest(tmp_path, ", stands_in: 1")


def test_one_image_of_the_repository_has_the_reference_and_no_quantised_variant_stands_in() -> None:
    """What serves as reference has the model's own weights: an artifact without a quantiser's name."""
    catalogue = Catalogue()
    marked = {
        (image, name): (manifest.reference_rank(name), manifest.variants[name].artifact)
        for image in catalogue.names
        for manifest in [catalogue.get(image).manifest]
        for name in manifest.variants
        if manifest.reference_rank(name) is not None
    }
    assert [rank for rank, _ in marked.values()].count(0) == 1
    assert {artifact for _, artifact in marked.values()} <= {
        "hf",
        *("ct2-float32", "ct2-float16"),
        *("gguf-f32", "gguf-f16"),
        *("ort-fp32", "ov-fp32", "ov-fp16"),
    }


def test_the_plan_carries_the_place() -> None:
    catalogue = Catalogue()
    suite = Suite(images=("transformers",), variants=("all",), batch_sizes=(1,))
    planned = {cell.variant: cell.reference for cell in make_plan(suite, catalogue, "cpu").cells}
    assert planned == {"fp32": 0, "bf16": 4, "fp32-continuous": None}


def test_texts_and_bounds_reach_the_cells_and_the_record(drive: Drive, tmp_path: Path) -> None:
    """Asked for 3 texts: the container's first cell is to score them, no other."""
    called = drive(*RUN, "--score-texts", "3", "--max-nll-increase", "0.25", "--min-agreement", "0.5")
    assert called.code == 0, called.err
    run = tmp_path / "results" / "mine"
    specs = {path.parent.name: CellSpec.read(path) for path in run.glob("cells/*/spec.json")}
    texts = {cell: spec.protocol.score_texts for cell, spec in specs.items()}
    assert {cell: count for cell, count in texts.items() if ".scripted." in cell} == {
        "null.scripted.b1": 3,
        "null.scripted.b4": 0,
    }
    bounds = QualityBounds(max_nll_increase=0.25, min_agreement=0.5)
    assert RunRecord.read(run / "run.json").quality == bounds
    # Without suite.json the record itself says it.
    (run / "suite.json").unlink()
    again = drive("--resume", "mine", "--batch-sizes", "2", *FAST)
    assert again.code == 0, again.err
    assert RunRecord.read(run / "run.json").quality == bounds


def test_a_run_keeps_its_bounds_but_not_what_comes_after_the_batches(drive: Drive, tmp_path: Path) -> None:
    """Other bounds would change verdicts on cells of before; another number of texts or of direct batches changes no
    number of theirs."""
    assert drive(*RUN).code == 0
    run = tmp_path / "results" / "mine"
    for option, value, said in (
        ("--max-nll-increase", "0.7", "bound max_nll_increase is 0.7, was 0.5"),
        ("--min-agreement", "0.2", "bound min_agreement is 0.2, was 0.1"),
    ):
        called = drive("--resume", "mine", "--batch-sizes", "2", option, value)
        assert called.code == 2
        assert said in called.err
    path = run / "cells" / "null.scripted.b1" / "spec.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    spec["protocol"]["direct_batches"] = 2  # as of a cell measured for parity
    path.write_text(json.dumps(spec), encoding="utf-8")
    assert drive("--resume", "mine", "--batch-sizes", "2", "--score-texts", "0").code == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-nll-increase", "0"), ("--max-nll-increase", "nan"), ("--min-agreement", "1.5"), ("--score-texts", "5000")],
)
def test_bounds_that_bound_nothing_are_refused(drive: Drive, option: str, value: str) -> None:
    called = drive(*RUN, option, value)
    assert called.code == 2
    assert option in called.err
