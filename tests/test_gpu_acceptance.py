"""tests/gpu/acceptance.sh, as far as a machine without a GPU can say: its stages, its verdicts, its end."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from statistics import geometric_mean

import pytest
from conftest import ROOT

from bench_core.contract.records.events import BatchEvent
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.report.explain.repeats import over_repeats
from bench_core.report.write.embed import sheet_of
from bench_core.runs.files import read_events
from bench_core.runs.load import load_run
from bench_core.verify.run import verify_run

PUBLISHED = ROOT / "results" / "published"


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """In the place of Python: writes down what it is called with, and does nothing."""
    stub = tmp_path / "python"
    stub.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    stub.chmod(0o755)
    return stub


def accept(stub: Path, *words: str) -> subprocess.CompletedProcess[str]:
    folder = stub.parent
    places = [word for name in ("results", "data", "models") for word in (f"--{name}", str(folder / name))]
    return subprocess.run(
        [str(ROOT / "tests/gpu/acceptance.sh"), *places, *words],
        env={"PYTHON": str(stub), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_outcomes_on_a_real_gpu_are_those_that_the_script_expects(stub: Path) -> None:
    """Of the published runs of an H200; and the script sees it where one of them is another."""
    results = stub.parent / "results"
    for name in ("artifact", "memory"):
        shutil.copytree(PUBLISHED / f"h200-failures-{name}", results / f"failures-{name}")
    done = accept(stub, "failures")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (stub.parent / "calls").exists(), "what is there is not measured again"
    outcome = results / "failures-memory/cells/transformers.fp16.b1000/outcome.json"
    outcome.write_text(outcome.read_text().replace('"oom_kv"', '"crashed"', 1))
    done = accept(stub, "failures")
    assert done.returncode == 1
    assert "transformers.fp16.b1000: crashed instead of oom_kv" in done.stdout


@pytest.mark.parametrize(
    ("run", "failing", "outcome", "cause", "going_on"),
    [
        ("load", ["transformers.fp16.b1"], "oom_load", "CUDA out of memory", ["exllamav2.gptq-int4.b1"]),
        (
            "architecture",
            ["exllama.gptq-int4.b1", "exllama.gptq-int4.b4"],
            "unsupported",
            "no kernel image is available",
            [f"{method}.b{size}" for method in ("exllamav2.gptq-int4", "transformers.fp16") for size in (1, 4)],
        ),
    ],
)
def test_published_failures_are_what_the_page_says(
    run: str, failing: list[str], outcome: str, cause: str, going_on: list[str]
) -> None:
    folder = PUBLISHED / f"h200-failures-{run}"
    assert verify_run(folder).differences == ()
    verdicts = {row.planned.cell: row.verdict for row in load_run(folder).rows}
    assert sorted(verdicts) == sorted([*failing, *going_on])
    for cell, verdict in verdicts.items():
        assert verdict is not None
        assert verdict.outcome.value == (outcome if cell in failing else "ok")
        assert (cause in verdict.cause) == (cell in failing)


def parity_words() -> str:
    return " ".join((ROOT / "docs" / "parity.md").read_text(encoding="utf-8").split())


def test_published_parity_is_what_the_page_says() -> None:
    """Its tables follow from the runs: tests/test_repository.py."""
    words = parity_words()
    for run, expected, below in (("h200-parity", 34, [("vLLM 16-bit", "64")]), ("h200-parity-2", 10, [])):
        report = (PUBLISHED / run / "report.md").read_text(encoding="utf-8")
        rows = re.findall(r"^\| ([^|]+) \| (\d+) \|.* \| [\d.]+ \([\d.]+ to ([\d.]+)\) \|", report, re.MULTILINE)
        assert len(rows) == expected
        assert f"{expected - len(below)} of {expected}" in words
        assert [row[:2] for row in rows if float(row[2]) < 0.98] == below


@pytest.mark.parametrize("rows", [1, 64])
def test_what_the_page_says_of_engines_that_step_in_transformers(rows: int) -> None:
    """All calls by the suite, each beside the direct one of the same batch and round."""
    stepping = re.compile(rf"(auto-gptq|bitsandbytes|gptqmodel|transformers)\.(?!fp16-compiled).*\.b{rows}")
    ratios = []
    for run in ("h200-parity", "h200-parity-2"):
        folder = PUBLISHED / run
        for row in load_run(folder).rows:
            if row.result is not None and stepping.fullmatch(row.planned.cell):
                latency_s: dict[tuple[str, int], float] = {}
                for event in read_events(folder, folder / "cells" / row.planned.cell):
                    if isinstance(event, BatchEvent):
                        latency_s[event.phase, event.index] = event.latency_s
                pairs = [index for phase, index in latency_s if phase == "paired"]
                ratios += [latency_s["direct", index] / latency_s["paired", index] for index in pairs]
    words = parity_words()
    said = re.search(r"geometric mean of ([\d.]+) at one row and ([\d.]+) at 64 \((\d+) pairs each\)", words)
    assert said is not None
    at_one, at_many, pairs_each = said.groups()
    assert len(ratios) == int(pairs_each)
    assert geometric_mean(ratios) == pytest.approx(float(at_one if rows == 1 else at_many), abs=0.0006)


def test_published_repeats_agree_as_the_page_says() -> None:
    """The run kept its dataset's order: at 16 rows its few batches do not represent the workload."""
    told = over_repeats(load_run(PUBLISHED / "h200-repeats"))
    assert [cell.runs for cell in told.values()] == [5, 5, 5, 5]
    assert {name: cell.agreeing for name, cell in told.items()} == {
        name: None if name.endswith(".b16") else 5 for name in told
    }
    page = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    assert "At one row all ten repeats lie within" in page
    assert "At 16 rows no interval is given" in page


def test_published_memory_is_explained_within_5_percent() -> None:
    table = sheet_of(PUBLISHED / "h200-memory", "Memory explained")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert rows[0][-1] == "Difference (%)"
    differences = {row[0]: float(row[-1]) for row in rows[1:]}
    assert sorted(differences) == ["Transformers 16-bit", "vLLM 16-bit"]
    assert all(abs(difference) <= 5 for difference in differences.values())


def test_a_run_that_is_there_is_gone_on_with(stub: Path) -> None:
    assert accept(stub, "parity-exllama", "check-vllm").returncode == 0
    (stub.parent / "results" / "parity").mkdir()
    (stub.parent / "results" / "parity" / "run.json").touch()
    assert accept(stub, "parity-vllm").returncode == 0
    first, check, second = (stub.parent / "calls").read_text().splitlines()
    assert "--run-id parity --suite suites/parity.yaml" in first
    assert "--images exllama " in first
    assert "--self-check" in check
    assert "--resume parity --suite suites/parity.yaml" in second


def test_the_headline_run_is_spread_over_visits_by_image(stub: Path) -> None:
    assert accept(stub, "headline-vllm,transformers").returncode == 0
    (stub.parent / "results" / "headline-llama-2-7b").mkdir()
    (stub.parent / "results" / "headline-llama-2-7b" / "run.json").touch()
    assert accept(stub, "headline-llama-cpp-python").returncode == 0
    assert accept(stub, "--shape", "llama-3.1-8b", "headline-sglang").returncode == 0
    first, second, other = (stub.parent / "calls").read_text().splitlines()
    assert "--run-id headline-llama-2-7b --suite suites/headline.yaml" in first
    assert "--images vllm,transformers --model synthetic/llama-2-7b" in first
    assert "--resume headline-llama-2-7b --suite suites/headline.yaml --images llama-cpp-python --model" in second
    assert "--run-id headline-llama-3.1-8b" in other
    assert "--images sglang --model synthetic/llama-3.1-8b" in other


def test_the_headline_runs_ends_are_measured_three_times(stub: Path) -> None:
    assert accept(stub, "--shape", "llama-3.1-8b", "again-vllm").returncode == 0
    call = (stub.parent / "calls").read_text()
    assert (
        "--run-id again-llama-3.1-8b --suite suites/headline.yaml --images vllm --model synthetic/llama-3.1-8b" in call
    )
    assert "--batch-sizes 1,64 --max-seconds 10 --repeats 3" in call


def test_all_checks_every_engine_that_is_compared_on_a_gpu(stub: Path) -> None:
    """Read from the image.yaml files, so that a new image is among them."""
    accept(stub, "all")
    calls = (stub.parent / "calls").read_text(encoding="utf-8").splitlines()
    checked = [re.findall(r"--images (\S+)", call)[0] for call in calls if "--self-check" in call]
    catalogue = Catalogue()
    manifests = {name: catalogue.get(name).manifest for name in catalogue.names}
    assert checked == [name for name, manifest in manifests.items() if manifest.ranked and "cuda" in manifest.devices]
    assert any(f"--images {','.join(checked)}" in call for call in calls), "and compared with each other"


def test_all_has_every_stage_but_those_that_the_head_leaves_out(stub: Path) -> None:
    """Each is a run of its name; one wants trained weights."""
    script = (ROOT / "tests/gpu/acceptance.sh").read_text(encoding="utf-8")
    head = script.partition("# Stages:")[2].partition("# Not among all: headline,")[0]
    stages = {word.rstrip("-") for word in re.findall(r"[a-z][a-z0-9-]+", head)}
    accept(stub, "all")
    runs = re.findall(r"--run-id (\S+)", (stub.parent / "calls").read_text(encoding="utf-8"))
    expected = stages - {"all", "again", "check", "headline", "speculative"}
    assert {"lmdeploy", "parity", "memory", "llama-load"} <= expected
    assert {name for name in expected if not any(run == name or run.startswith(f"{name}-") for run in runs)} == set()


def test_no_stage_begins_when_time_is_up(stub: Path) -> None:
    done = accept(stub, "--seconds", "5", "parity-exllama", "repeats")
    assert done.returncode == 2
    assert done.stdout.count("no time is left") == 2
    assert not (stub.parent / "calls").exists()


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("parry",), "unknown stage: parry"),
        (("--result", "x", "all"), "unknown option: --result"),
        ((), "no stage is named"),
    ],
)
def test_what_it_does_not_know_is_refused(stub: Path, words: tuple[str, ...], refusal: str) -> None:
    done = accept(stub, *words)
    assert done.returncode == 2
    assert refusal in done.stderr
    assert not (stub.parent / "calls").exists()


@pytest.mark.parametrize(
    ("stage", "runs", "words"),
    [
        (
            "pool",
            ["pool-one", "pool-both"],
            [
                "vllm.fp16,vllm.gptq,exllamav2.gptq-int4,transformers.fp16-compiled --samples",
                "--gpus 0 --control none",
                "--gpus 0,1 --control exllamav2.gptq-int4.b1",
                "tests/gpu/two_gpus.py pool",
            ],
        ),
        (
            "pair",
            ["pair-one", "pair-both"],
            [
                "--batch-sizes 1,16,64",
                "--gpus 0,1 --gpus-per-cell 2 --direct-batches 4",
                "tests/gpu/two_gpus.py pair",
            ],
        ),
        (
            "pair-serving",
            ["pair-serving", "each-serving"],
            [
                "--concurrency 64 --gpus 0,1 --gpus-per-cell 2",
                "--concurrency 32,64 --gpus 0,1 --repeats 2",
                "tests/gpu/two_gpus.py serving",
            ],
        ),
    ],
)
def test_two_gpus_are_measured_as_a_pool_and_as_a_pair(
    stub: Path, stage: str, runs: list[str], words: list[str]
) -> None:
    done = accept(stub, stage)
    assert done.returncode == 0, done.stdout + done.stderr
    calls = (stub.parent / "calls").read_text(encoding="utf-8").splitlines()
    assert [call.partition("--run-id ")[2].split()[0] for call in calls[:2]] == runs
    for found in words:
        assert any(found in call for call in calls), found
    results = stub.parent / "results"
    assert calls[2].endswith(" ".join(str(results / run) for run in runs))
    for run in runs:
        (results / run).mkdir(parents=True)
        (results / run / "run.json").write_text("{}")
    again = accept(stub, stage)
    assert again.returncode == 0
    later = (stub.parent / "calls").read_text(encoding="utf-8").splitlines()[len(calls) :]
    assert all(f"--resume {run}" in call for run, call in zip(runs, later, strict=False)), "a run that is there goes on"


def test_what_two_gpus_miss_fails_the_stage(stub: Path) -> None:
    stub.write_text(f'#!/bin/sh\necho "$@" >> {stub.parent}/calls\ncase $1 in *two_gpus.py) exit 1 ;; esac\n')
    assert accept(stub, "pair").returncode == 1


def test_awq_on_another_kernel_than_marlin_is_seen(stub: Path) -> None:
    cells = stub.parent / "results" / "awq" / "cells"
    for cell, facts in (
        ("vllm.awq.b1", '{"linear_kernel": "AWQMarlinLinearMethod"}'),
        ("gptqmodel.awq-int4.b1", '{"kernel": "AwqTorchLinear 224"}'),
    ):
        (cells / cell).mkdir(parents=True)
        (cells / cell / "result.json").write_text(f'{{"engine_facts": {facts}}}')
    done = accept(stub, "awq")
    assert done.returncode == 1
    assert "gptqmodel.awq-int4.b1 does not run on Marlin" in done.stdout
    assert "vllm.awq.b1 does not" not in done.stdout
    assert "AWQMarlinLinearMethod" in done.stdout, "the kernels are printed"


def test_speculation_wants_trained_weights(stub: Path) -> None:
    done = accept(stub, "speculative")
    assert done.returncode == 1
    assert "--model-folder is missing" in done.stdout
    assert not (stub.parent / "calls").exists()
    assert accept(stub, "--model-folder", "trained/model", "speculative").returncode == 0
    (call,) = (stub.parent / "calls").read_text().splitlines()
    assert "--model trained/model" in call
    assert "vllm.fp16,vllm.fp16-ngram" in call
