"""What the command prints, writes and exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from make_large_run import Noise, make_large_run
from report_runs import Method, Script, write_run

from bench_core.compare.record import SCHEMA, ComparisonsRecord, schema_text
from bench_core.contract.records.outcome import Outcome

QUIET = Noise(batches=0.004, cells=0.001)
SPEED = ("--quantities", "throughput,ttft,tpot,memory")


def call(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench_core.compare", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run, the same again, one that is 5 % slower, and one that is noisy."""
    home = tmp_path_factory.mktemp("compare")
    noises = {"base": QUIET, "same": QUIET, "slow": replace(QUIET, slower=0.05), "noisy": replace(QUIET, batches=0.1)}
    for seed, (name, noise) in enumerate(noises.items()):
        make_large_run(home / name, 3, 20, seed, noise=noise)
    return {name: home / name for name in noises}


def test_exit_codes(runs: dict[str, Path]) -> None:
    passed = call(runs["base"], runs["same"], *SPEED)
    assert (passed.returncode, passed.stderr) == (0, "")
    assert "PASS: same against base" in passed.stdout
    assert call(runs["base"], runs["slow"], *SPEED).returncode == 1
    left = call(runs["base"], runs["noisy"], *SPEED)
    assert left.returncode == 3
    assert "measure" in left.stdout
    both = call(runs["base"], runs["noisy"], runs["slow"], *SPEED)
    assert both.returncode == 1
    assert "noisy against base" in both.stdout


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ((), "one run alone"),
        (("same", "--max-regression", "lots"), "no share"),
        (("same", "--allow-different", "weather"), "nothing that may differ"),
        (("same", "--quantities", "speed"), "no quantity"),
        (("same", "--figure", "x.png"), ".svg"),
        (("nowhere",), "not a folder"),
    ],
)
def test_bad_input_exits_with_2_and_says_what(runs: dict[str, Path], words: tuple[str, ...], cause: str) -> None:
    done = call(runs["base"], *(runs.get(word, word) for word in words))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert cause in done.stderr
    assert "Traceback" not in done.stderr


def test_files(runs: dict[str, Path], tmp_path: Path) -> None:
    files = {kind: tmp_path / f"found.{kind}" for kind in ("md", "json", "svg")}
    asked = ("--markdown", files["md"], "--json", files["json"], "--figure", files["svg"])
    assert call(runs["base"], runs["slow"], runs["same"], *SPEED, *asked).returncode == 1
    record = ComparisonsRecord.model_validate_json(files["json"].read_text())
    assert (record.schema_version, record.exit_code, record.verdict) == (1, 1, "FAIL")
    assert [one.verdict for one in record.comparisons] == ["FAIL", "PASS"]
    failed = [line for line in record.comparisons[0].lines if line.verdict == "FAIL"]
    assert {line.quantity for line in failed} == {"throughput", "ttft", "tpot"}
    for line in failed:
        assert line.change is not None
        assert line.low is not None
        assert line.high is not None
        assert line.low < line.change < line.high
    text = files["md"].read_text()
    assert text.startswith(f"### FAIL: slow against base: {len(failed)} lines worse than allowed")
    assert "### PASS: same against base" in text
    drawing = files["svg"].read_text()
    assert drawing.startswith("<svg")
    assert "Throughput, slow (allowed: 3.00 %)" in drawing


def test_the_schema_is_that_of_the_code() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "run `make schema`"


def test_names_and_causes_are_plain_text(tmp_path: Path) -> None:
    hostile = "<script>x</script> | [bold]a[/bold] `b` @team"
    good = Method("vllm", "fp16", hostile)
    bad = replace(good, dies={4: (Outcome.CRASHED, hostile)})
    script = Script(methods=(good,), batches=8)
    one = write_run(tmp_path / "one", script)
    two = write_run(tmp_path / "two", replace(script, methods=(bad,)))
    done = call(one, two, "--markdown", tmp_path / "x.md", "--figure", tmp_path / "x.svg")
    assert done.returncode == 1, done.stderr
    assert "[bold]" in done.stdout.replace("\n", "")
    for name in ("x.md", "x.svg"):
        assert "<script>" not in (tmp_path / name).read_text()
    assert "@team" not in (tmp_path / "x.md").read_text()


def test_many_lines_are_counted_and_all_are_in_the_json(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        make_large_run(tmp_path / name, 40, 6, seed)
    words = (tmp_path / "a", tmp_path / "b", "--quantities", "throughput,memory")
    done = call(*words, "--json", tmp_path / "x.json")
    verdicts = [line["verdict"] for line in json.loads((tmp_path / "x.json").read_text())["comparisons"][0]["lines"]]
    assert len(verdicts) == 80
    passed = verdicts.count("PASS")
    assert passed >= 40  # memory
    assert f"{passed} PASS; --all shows every line" in " ".join(done.stdout.split())
    assert call(*words, "--all").stdout.count("PASS") >= passed
