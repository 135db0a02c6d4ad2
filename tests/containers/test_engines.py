"""Every real engine, in its own container, on a real model and real stories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from conftest import Run

from bench_core.contract import layout
from bench_core.contract.events import BatchEvent, parse_events
from bench_core.contract.metrics import CellResult
from bench_core.contract.outcome import Verdict
from bench_core.contract.quality import Likelihood, nll_difference
from bench_core.drive.catalogue import Catalogue
from bench_core.drive.plan import make_plan
from bench_core.drive.request import Suite

pytestmark = [pytest.mark.docker, pytest.mark.engines]

NEW_TOKENS = 64


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models and data that the tests of this module share, so that nothing is converted twice."""
    root = tmp_path_factory.mktemp("engines")
    return {"models": root / "models", "data": root / "data"}


def _real(material: Path) -> tuple[str, ...]:
    stories = material / "tinystories_valid_1000.jsonl"
    return ("--model", str(material / "stories260k-hf"), "--dataset", str(stories))


# stories260k's heads are 8 wide and its layers 64: too narrow for kernels of these. They run on random weights.
TOO_NARROW_FOR = {"bitsandbytes", "vllm"}
ON_CPU = {job.image.name for job in make_plan(Suite(), Catalogue(), "cpu").jobs}


def _models(material: Path) -> tuple[tuple[str, set[str], tuple[str, ...]], ...]:
    """(name of the run, images, arguments): which images are tried on which model."""
    return (
        ("real", ON_CPU - TOO_NARROW_FOR, _real(material)),
        ("wide", ON_CPU & TOO_NARROW_FOR, ("--model", "synthetic/tiny", "--dataset", "embedded")),
    )


def test_every_engine_measures_every_batch_size(
    run: Run, tmp_path: Path, material: Path, kept: dict[str, Path]
) -> None:
    """All images at their defaults: every cell ends `ok`, the report has every row, and an engine called directly
    writes the same tokens as through its adapter."""
    sizes = (1, 4, 16)
    size = ("--samples", "32", "--batch-sizes", "1,4,16", "--max-new-tokens", str(NEW_TOKENS))
    protocol = ("--max-batches", "2", "--max-warmup-batches", "1", "--direct-batches", "1")
    for name, images, model in _models(material):
        done = run("--images", ",".join(sorted(images)), *model, *size, *protocol, "--run-id", name, **kept)
        assert done.returncode == 0, done.stdout + done.stderr
        cells = make_plan(Suite(images=tuple(images), batch_sizes=sizes), Catalogue(), "cpu").cells
        for cell in cells:
            folder = layout.cell_folder(tmp_path / "results" / name, cell.cell)
            assert Verdict.read(folder / layout.OUTCOME_FILE).outcome.value == "ok", cell.cell
            parity = CellResult.read(folder / layout.RESULT_FILE).metrics.parity
            if Catalogue().get(cell.image).manifest.direct is None:
                assert parity is None, cell.cell
                continue
            assert parity is not None, cell.cell
            assert parity.rows_with_equal_tokens == parity.rows == cell.batch_size, cell.cell
        report = (tmp_path / "results" / name / layout.REPORT_FILE).read_text(encoding="utf-8")
        assert all(cell.label in report for cell in cells)
    assert len(ON_CPU) >= 7


def test_engines_agree_on_the_text(run: Run, tmp_path: Path, material: Path, kept: dict[str, Path]) -> None:
    """32-bit variants of three engines write the same 64 tokens for 16 stories at batch size 1, and nearly so at 4;
    their negative log-likelihoods of the same texts are within 0.01 nat a token."""
    done = run(
        "--images", "transformers,ctranslate2,llama-cpp-python", "--variants", "fp32,float32,f32",
        *_real(material), "--samples", "16", "--batch-sizes", "1,4", "--max-new-tokens", str(NEW_TOKENS),
        "--run-id", "mine", **kept,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    cells = tmp_path / "results" / "mine"
    for batch_size, least in ((1, 16), (4, 15)):
        texts = {
            name: _outputs(layout.cell_folder(cells, f"{name}.b{batch_size}"))
            for name in ("transformers.fp32", "ctranslate2.float32", "llama-cpp-python.f32")
        }
        reference = texts["transformers.fp32"]
        assert len(reference) == 16
        for name, outputs in texts.items():
            same = sum(outputs[row] == reference[row] for row in reference)
            assert same >= least, f"{name} at batch size {batch_size}: {same} of 16 equal"
    scores = {name: _likelihood(layout.cell_folder(cells, f"{name}.b1")) for name in texts}
    assert len({score.digest for score in scores.values()}) == 1
    for name, score in scores.items():
        difference = nll_difference(score, scores["transformers.fp32"])
        assert difference is not None, f"{name}: {score.cause}"
        assert abs(difference.nat_per_token) < 0.01, name


def _likelihood(folder: Path) -> Likelihood:
    """Of the workload's first texts, as the cell's engine scored them."""
    found = CellResult.read(folder / layout.RESULT_FILE).metrics.likelihood
    assert found is not None
    return found


def _outputs(folder: Path) -> dict[int, tuple[int, ...]]:
    """Prompt index to output ids of the measured batches."""
    with (folder / layout.EVENTS_FILE).open("rb") as stream:
        batches: Iterator[BatchEvent] = (e for e in parse_events(stream, "events") if isinstance(e, BatchEvent))
        return {
            prompt: output
            for batch in batches
            if batch.phase == "measure"
            for prompt, output in zip(batch.prompts, batch.outputs, strict=True)
        }


def test_the_contract_suite_passes_for_every_variant(run: Run, material: Path, kept: dict[str, Path]) -> None:
    """Every variant of every image that runs on a CPU; a failure is either declared in image.yaml or a defect."""
    size = ("--samples", "8", "--batch-sizes", "1", "--max-new-tokens", "16")
    for _, images, model in _models(material):
        done = run("--images", ",".join(sorted(images)), "--variants", "all", *model, *size, "--self-check", **kept)
        assert done.returncode == 0, done.stdout + done.stderr
        for job in make_plan(Suite(images=tuple(images), variants=("all",)), Catalogue(), "cpu").jobs:
            assert f"{job.title}  forced_length: passed" in done.stdout


def test_vllm_asks_no_other_process_what_a_model_can_do(run: Run, docker_client: docker.DockerClient) -> None:
    """As a measuring container runs: not root, nothing but /tmp to write. The build has left the answer."""
    done = run("--images", "vllm", "--build-only")
    assert done.returncode == 0, done.stdout + done.stderr
    code = """
import adapter
from vllm.model_executor.models import registry
def another_process(*_): raise SystemExit("another process is asked")
adapter.put_model_classes()
registry._run_in_subprocess = another_process
print(registry.ModelRegistry.models["LlamaForCausalLM"].inspect_model_cls().architecture)
"""
    said = docker_client.containers.run(
        "llm-bench/vllm:cpu",
        ["-c", code],
        entrypoint="python",
        working_dir="/opt/bench/image",
        environment={"VLLM_NO_USAGE_STATS": "1"},
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": ""},  # noqa: S108 - the container's
        user="65532:65532",
        remove=True,
    )
    assert said.split()[-1:] == [b"LlamaForCausalLM"]
