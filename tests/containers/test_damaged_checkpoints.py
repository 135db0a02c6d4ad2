"""What a checkpoint's headers do not show, whoever loads the weights tells: no engine measures random numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import RunIn
from damage import DAMAGES, Damage, whole_model

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict

pytestmark = [pytest.mark.docker, pytest.mark.checkpoints]

UNSEEN = [damage for damage in DAMAGES if not damage.shows]
# They read the checkpoint itself, and say by name what is wrong.
NAMING = ("transformers", "bitsandbytes", "vllm")
# They convert it first, or have parts under names of their own: what stands in the cause.
OTHERS = {
    "ctranslate2": r"ct2-int8 could not be made: MissingWeights",
    "gptqmodel": r"gptq-int4-g128 could not be made: (MissingWeights|toy has no linear layers)",
    "llama-cpp-python": r"tensor 'blk\.0\.|gguf-q4_k_m could not be made: .*model\.layers\.0\.",
}
SIZE = ("--dataset", "embedded", "--batch-sizes", "1", "--max-new-tokens", "4", "--max-batches", "1")
BARE = ("--no-harness-check", "--no-device-rates", "--threads", "1", "--run-id", "damaged")

Damaged = tuple[Damage, dict[str, Verdict]]  # by image


@pytest.fixture(scope="module", params=UNSEEN, ids=lambda damage: damage.name)
def damaged(request: pytest.FixtureRequest, run_in: RunIn, tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    """A damage, and what all of these images say of a checkpoint that has it, in one run."""
    damage: Damage = request.param
    root = tmp_path_factory.mktemp(damage.name)
    damage.apply(whole_model(root / "toy"))
    done = run_in(root, "--images", ",".join((*NAMING, *OTHERS)), "--model", str(root / "toy"), *SIZE, *BARE)
    assert done.returncode == 1, done.stdout + done.stderr
    return damage, _verdicts(root / "results")


def _verdicts(results: Path) -> dict[str, Verdict]:
    """By image, which each has one cell."""
    outcomes = sorted(results.glob(f"damaged/{layout.CELLS_FOLDER}/*/{layout.OUTCOME_FILE}"))
    found = {path.parent.name.partition(".")[0]: Verdict.read(path) for path in outcomes}
    assert len(found) == len(outcomes)
    return found


@pytest.mark.parametrize("image", NAMING)
def test_a_damaged_checkpoint_fails_to_load_with_the_name(damaged: Damaged, image: str) -> None:
    damage, verdicts = damaged
    assert verdicts[image].outcome is Outcome.LOAD_FAILED
    assert damage.sign in verdicts[image].cause


@pytest.mark.parametrize("image", OTHERS)
def test_no_engine_measures_a_damaged_checkpoint(damaged: Damaged, image: str) -> None:
    """For the damage, and for nothing else that it might not like about so small a model."""
    _, verdicts = damaged
    assert verdicts[image].outcome is not Outcome.OK
    assert re.search(OTHERS[image], verdicts[image].cause)


@pytest.mark.parametrize("damage", UNSEEN, ids=lambda damage: damage.name)
def test_no_server_is_measured_on_a_damaged_checkpoint(damage: Damage, run_in: RunIn, tmp_path: Path) -> None:
    """Both would take what they find: a check stands before each."""
    damage.apply(whole_model(tmp_path / "toy"))
    load = ("--dataset", "embedded", "--concurrency", "1", "--max-new-tokens", "4")
    done = run_in(tmp_path, "--images", "transformers,vllm", "--model", str(tmp_path / "toy"), *load, *BARE)
    assert done.returncode == 1, done.stdout + done.stderr
    verdicts = _verdicts(tmp_path / "results")
    assert set(verdicts) == {"transformers", "vllm"}
    for verdict in verdicts.values():
        assert verdict.outcome is Outcome.LOAD_FAILED
        assert damage.sign in verdict.cause


def test_the_whole_checkpoint_is_measured(run_in: RunIn, tmp_path: Path) -> None:
    whole_model(tmp_path / "toy")
    done = run_in(tmp_path, "--images", "transformers", "--model", str(tmp_path / "toy"), *SIZE, *BARE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [verdict.outcome for verdict in _verdicts(tmp_path / "results").values()] == [Outcome.OK]
