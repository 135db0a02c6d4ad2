"""What a checkpoint's headers do not show, whoever loads the weights tells: no engine measures random numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run
from damage import DAMAGES, Damage, whole_model

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict

pytestmark = [pytest.mark.docker, pytest.mark.engines]

UNSEEN = [damage for damage in DAMAGES if not damage.shows]
# They read the checkpoint itself, and say by name what is wrong.
NAMING = ("transformers", "bitsandbytes")
# They convert it first, or have parts under names of their own.
OTHERS = ("ctranslate2", "llama-cpp-python", "gptqmodel", "vllm")
SIZE = ("--dataset", "embedded", "--batch-sizes", "1", "--max-new-tokens", "4", "--max-batches", "1")


def _verdicts(results: Path) -> dict[str, Verdict]:
    return {
        path.parent.name: Verdict.read(path)
        for path in results.glob(f"*/{layout.CELLS_FOLDER}/*/{layout.OUTCOME_FILE}")
    }


@pytest.mark.parametrize("damage", UNSEEN, ids=lambda damage: damage.name)
def test_a_damaged_checkpoint_fails_to_load_with_the_name(damage: Damage, run: Run, tmp_path: Path) -> None:
    damage.apply(whole_model(tmp_path / "toy"))
    done = run("--images", ",".join(NAMING), "--model", str(tmp_path / "toy"), "--no-harness-check", *SIZE)
    verdicts = _verdicts(tmp_path / "results")
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(verdicts) == len(NAMING)
    for cell, verdict in verdicts.items():
        assert verdict.outcome is Outcome.LOAD_FAILED, cell
        assert damage.sign in verdict.cause, cell


@pytest.mark.parametrize("image", OTHERS)
@pytest.mark.parametrize("damage", UNSEEN, ids=lambda damage: damage.name)
def test_no_engine_measures_a_damaged_checkpoint(damage: Damage, image: str, run: Run, tmp_path: Path) -> None:
    damage.apply(whole_model(tmp_path / "toy"))
    done = run("--images", image, "--model", str(tmp_path / "toy"), "--no-harness-check", *SIZE)
    assert done.returncode != 0, done.stdout + done.stderr
    assert all(verdict.outcome is not Outcome.OK for verdict in _verdicts(tmp_path / "results").values())


def test_the_whole_checkpoint_is_measured(run: Run, tmp_path: Path) -> None:
    whole_model(tmp_path / "toy")
    done = run("--images", "transformers", "--model", str(tmp_path / "toy"), "--no-harness-check", *SIZE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [v.outcome for v in _verdicts(tmp_path / "results").values()] == [Outcome.OK]
