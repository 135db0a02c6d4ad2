"""Options are checked against what the image declares, when planning; names with dots are read in one way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Drive

from bench_core.contract.errors import BadInput
from bench_core.contract.records.spec import CellSpec
from bench_core.drive.ask import words
from bench_core.drive.ask.request import Suite
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import cell_job, make_plan, method_job

QUICK = ("--images", "null", "--device", "cpu", "--launcher", "process", "--batch-sizes", "1", "--samples", "8")
MANIFEST = """\
name: {name}
title: Dotted
adapter: adapter:Dotted
batching: native
token_times: none
devices: [cuda, cpu]
packages: []
options:
  level: {{type: int, default: 1, words: how much}}
  label: {{type: str, default: "", words: any text}}
  share: {{type: float, default: 0.5, words: of a GPU, devices: [cuda]}}
variants: {{{variant}: {{artifact: none, default: true}}}}
"""


@pytest.fixture
def dotted(tmp_path: Path) -> Catalogue:
    """Images ``engine`` and ``engine-2.5``, whose variants have dots as well."""
    for name, variant in (("engine", "q4.0"), ("engine-2.5", "q8.0")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "image.yaml").write_text(MANIFEST.format(name=name, variant=variant), encoding="utf-8")
    return Catalogue(tmp_path)


def test_an_image_with_a_dot_is_named_in_the_same_way_everywhere(dotted: Catalogue) -> None:
    suite = Suite(images=("engine-2.5", "engine"), variants=("engine-2.5.q8.0", "engine.q4.0"), batch_sizes=(2,))
    titles = [job.title for job in make_plan(suite, dotted, "cpu").grid]
    assert titles == ["engine-2.5.q8.0", "engine.q4.0"]
    control = suite.model_copy(update={"control": "engine-2.5.q8.0.b2"})
    planned = make_plan(control, dotted, "cpu").control
    assert planned is not None
    assert planned.title == "engine-2.5.q8.0"
    assert cell_job("engine-2.5.q8.0.b4", "--min-memory", suite, dotted, "cpu").cells == ("engine-2.5.q8.0.b4",)
    assert method_job("engine-2.5.q8.0", "--find-max-batch", suite, dotted, "cpu").title == "engine-2.5.q8.0"
    assert words.parts_of_cell("engine-2.5.q8.0.b4", "--min-memory", dotted) == ("engine-2.5", "engine-2.5.q8.0", 4)
    given = words.options(["engine-2.5.level=007", "engine.label=007"], dotted)
    assert given == {"engine-2.5": {"level": 7}, "engine": {"label": "007"}}


def test_a_bare_variant_with_a_dot_is_still_one(dotted: Catalogue) -> None:
    plan = make_plan(Suite(images=("engine-2.5",), variants=("q8.0",)), dotted, "cpu")
    assert [job.title for job in plan.grid] == ["engine-2.5.q8.0"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"engine": {"levle": 1}},
            "image engine has no option 'levle' (did you mean level? known: label, level, share)",
        ),
        ({"engine": {"level": "1"}}, "option engine.level: '1' is not a whole number"),
        ({"engine": {"label": 7}}, "write it in quotes"),
        ({"engine": {"share": 0.1}}, "option engine.share has no effect on cpu"),
        ({"engine-2.5": {"levle": 1}}, "image engine-2.5 has no option 'levle'"),
        ({"engin": {"level": 1}}, "there is no image 'engin' (did you mean engine?"),
    ],
)
def test_a_suites_options_are_checked_when_planning(dotted: Catalogue, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_plan(Suite(images=("engine",), options=options), dotted, "cpu")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("null.tpot=1", "image null has no option 'tpot'"),
        ("null.tpot=1", "did you mean tpot_s?"),
        ("null.tpot_s=fast", "'fast' is not a number at least 0"),
        ("null.fail_in=lode", "one of ''"),
        ("transformers.foo=1", "image transformers has no option 'foo'"),
        ("transformers.dtype=float32", "transformers, which is not among the images of this run"),
        ("vllm.max_num_seqs=1e3", "'1e3' is not a whole number"),
        ("nul.tpot_s=1", "is not IMAGE.KEY=VALUE"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(drive: Drive, tmp_path: Path, word: str, said: str) -> None:
    called = drive(*QUICK, "--option", word, "--dry-run")
    assert called.code == 2
    assert said in called.err
    assert list(tmp_path.iterdir()) == []


def test_options_are_listed_with_type_default_and_words(drive: Drive) -> None:
    called = drive("--list-options", "--images", "null,exllamav2", own_folders=False)
    assert called.code == 0
    lines = called.out.splitlines()
    assert "null.ttft_s = 0.02: time to first token of a batch, seconds (a number at least 0, at most 86400)" in lines
    assert "exllamav2 has no options" in lines
    declared = sum(len(Catalogue().get(name).manifest.options) for name in Catalogue().names)
    everything = drive("--list-options", "--json", own_folders=False)
    told = [json.loads(line)["text"] for line in everything.out.splitlines()]
    assert len([line for line in told if " = " in line]) == declared > 20
    assert "there is no image 'nul'" in drive("--list-options", "--images", "nul", own_folders=False).err


def test_what_was_given_stands_in_the_spec_as_it_was_declared(drive: Drive, tmp_path: Path) -> None:
    """The same type from the command line to the record, and the run goes on."""
    given = ("--option", "null.vocabulary=0100", "--option", "null.ttft_s=1e-3", "--option", "null.tpot_s=0")
    called = drive(*QUICK, *given, "--run-id", "mine", "--max-new-tokens", "2", "--no-harness-check")
    assert called.code == 0, called.err
    run = tmp_path / "results" / "mine"
    options = CellSpec.read(run / "cells" / "null.scripted.b1" / "spec.json").options
    assert [options[name] for name in ("vocabulary", "ttft_s", "tpot_s")] == [100, 0.001, 0.0]
    assert type(options["tpot_s"]) is float
    resumed = drive("--resume", "mine", "--batch-sizes", "2")
    assert resumed.code == 0, resumed.err
    refused = drive("--resume", "mine", "--option", "null.vocabulary=101")
    assert refused.code == 2, "every cell is complete, and what was asked for is not what they were"
    assert "option null.scripted.vocabulary is 101, was 100" in refused.err


def test_a_batch_size_is_refused_by_the_option_that_was_given(drive: Drive, tmp_path: Path) -> None:
    assert "--direct-batch-sizes '0'" in drive(*QUICK, "--direct-batches", "1", "--direct-batch-sizes", "0").err
    assert "--batch-sizes '0'" in drive("--batch-sizes", "0").err
