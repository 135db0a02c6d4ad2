"""Every real engine, in its own container, on a model of a hub's form whose every id is known."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from conftest import Run
from made_model import story_model, write_stories
from reference_llama import ReferenceLlama

from bench_core.contract.measures.cell import CellResult
from bench_core.contract.measures.quality import Likelihood, scored_texts
from bench_core.contract.records import layout
from bench_core.contract.records.events import BatchEvent, parse_events
from bench_core.contract.records.outcome import Verdict
from bench_core.contract.records.workload import Workload
from bench_core.contract.serving.result import ServeResult
from bench_core.drive.ask.request import Suite
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import Job, make_plan
from bench_core.runs.load import load_run

pytestmark = [pytest.mark.docker, pytest.mark.engines]

NEW_TOKENS = 64
BARE = ("--no-harness-check", "--no-device-rates")  # without launches that are of no engine
# Of matrices that small, threads only wait for each other, and for long where another test has one of the CPUs. The
# contract suite runs on all.
ONE_THREAD = ("--threads", "1")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models and data that the tests of this module share, so that nothing is converted twice."""
    root = tmp_path_factory.mktemp("engines")
    return {"models": root / "models", "data": root / "data"}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The arguments that name the made model and its stories."""
    root = tmp_path_factory.mktemp("story")
    dataset = write_stories(root / "stories.jsonl", 200)
    return ("--model", str(story_model(root / "story-llama")), "--dataset", str(dataset))


# The made model's heads are 8 wide and its layers 64: too narrow for kernels of these. They run on another.
TOO_NARROW_FOR = {"bitsandbytes", "onnxruntime-genai", "vllm"}
ON_CPU = {job.image.name for job in make_plan(Suite(), Catalogue(), "cpu").jobs}
# Of a story's outputs; random weights of a smaller scale write one id for ever.
LEAST_DIFFERENT_IDS = 30
# Of the logits' standard deviation: nearer than that, 32 bits cannot tell which of two ids is the better one.
TIE = 1e-3


def _models(story: tuple[str, ...]) -> tuple[tuple[str, set[str], tuple[str, ...]], ...]:
    """(name of the run, images, arguments): which images are tried on which model."""
    return (
        ("story", ON_CPU - TOO_NARROW_FOR, story),
        ("wide", ON_CPU & TOO_NARROW_FOR, ("--model", "synthetic/tiny", "--dataset", "embedded")),
    )


def test_every_engine_measures_every_batch_size(
    run: Run, tmp_path: Path, story: tuple[str, ...], kept: dict[str, Path]
) -> None:
    """All images at their defaults: every cell ends `ok`, the report has every row, and an engine called directly
    writes the same tokens as through its adapter.

    Prompts come with the longest first, as llama.cpp's adapter gives them in any case: which of them share a matrix
    decides how its 8-bit activations are rounded, and 12 of 16 rows of random weights then go another way within 64
    tokens (tried with 0.3.36 on a CPU; in one order all rows are equal)."""
    sizes = (1, 4, 16)
    size = ("--batch-sizes", "1,4,16", "--max-new-tokens", str(NEW_TOKENS), "--sample-order", "dataset")
    # Without scores, behind which an engine is loaded anew for the next size: the contract suite asks for them.
    protocol = ("--max-batches", "2", "--max-warmup-batches", "1", "--direct-batches", "1", "--score-texts", "0")
    longest_first = str(write_stories(tmp_path / "longest_first.jsonl", 32, longest_first=True))
    for name, images, model in _models((*story[:2], "--dataset", longest_first)):
        # The device and the suite's own error are measured in the first run, and are the same in the other.
        more = () if name == "story" else BARE
        asked = (*model, *size, *protocol, *ONE_THREAD, *more, "--run-id", name)
        done = run("--images", ",".join(sorted(images)), *asked, **kept)
        assert done.returncode == 0, done.stdout + done.stderr
        view = load_run(tmp_path / "results" / name)
        assert (len(view.device_rates), len(view.own_error)) == ((0, 0) if more else (1, 2))
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


def test_engines_write_what_the_model_says(
    run: Run, tmp_path: Path, story: tuple[str, ...], kept: dict[str, Path]
) -> None:
    """32-bit variants of three engines write the ids that follow from the model's equations, 64 for each of 16 stories
    at batch size 1, and nearly all of them at 4; the log-likelihoods that they give of the same texts are right to
    0.01 nat a token."""
    done = run(
        "--images", "transformers,ctranslate2,llama-cpp-python", "--variants", "fp32,float32,f32",
        *story, "--samples", "16", "--batch-sizes", "1,4", "--max-new-tokens", str(NEW_TOKENS), *BARE,
        *ONE_THREAD, "--run-id", "equations", **kept,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    reference = ReferenceLlama(Path(story[1]))
    names = ("transformers.fp32", "ctranslate2.float32", "llama-cpp-python.f32")
    cells = tmp_path / "results" / "equations"
    with gzip.open(cells / layout.WORKLOAD_FILE) as stream:
        prompts = Workload.model_validate_json(stream.read()).prompts
    for name in names:
        for batch_size, least in ((1, 16), (4, 15)):
            outputs = _outputs(layout.cell_folder(cells, f"{name}.b{batch_size}"))
            assert len(outputs) == 16
            right = sum(max(reference.behind(prompts[row], ids)) < TIE for row, ids in outputs.items())
            assert right >= least, f"{name} at batch size {batch_size}: {right} of 16 are right"
            assert all(len(ids) == NEW_TOKENS for ids in outputs.values())
            assert all(len(set(ids)) >= LEAST_DIFFERENT_IDS for ids in outputs.values()), "a test that tells nothing"
    llama = CellResult.read(layout.cell_folder(cells, "llama-cpp-python.f32.b1") / layout.RESULT_FILE)
    told = llama.engine_facts
    assert told["cpu_library"] == _best_library()
    assert ("AVX512" in told["cpu_instructions"].split(", ")) == ("avx512f" in _cpu_flags())
    scores = {name: _likelihood(layout.cell_folder(cells, f"{name}.b1")) for name in names}
    assert len({score.digest for score in scores.values()}) == 1
    for name, score in scores.items():
        texts = scored_texts(prompts, len(score.scored_tokens))
        assert len(texts) == len(score.nll_nat) > 1, f"{name}: {score.cause}"
        for (_, text), nll_nat in zip(texts, score.nll_nat, strict=True):
            right_nat = -float(reference.log_likelihoods(text).sum())
            assert abs(nll_nat - right_nat) / (len(text) - 1) < 0.01, name


def test_a_server_opens_the_library_for_this_cpu_and_its_cells_say_so(
    run: Run, tmp_path: Path, story: tuple[str, ...], kept: dict[str, Path]
) -> None:
    """What its process has opened is what the binding chose beside it."""
    done = run(
        "--images", "llama-cpp-python", "--variants", "f32", *story, "--samples", "8", "--batch-sizes", "1",
        "--concurrency", "2", "--max-serve-seconds", "2", "--max-ramp-seconds", "1", "--max-new-tokens", "8", *BARE,
        "--run-id", "opened", **kept,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    cells = tmp_path / "results" / "opened"
    batch = CellResult.read(layout.cell_folder(cells, "llama-cpp-python.f32.b1") / layout.RESULT_FILE).engine_facts
    served = ServeResult.read(layout.cell_folder(cells, "llama-cpp-python.f32.c2") / layout.RESULT_FILE).engine_facts
    assert served["cpu_library"] == batch["cpu_library"] == _best_library()
    assert served["cpu_instructions"] == batch["cpu_instructions"]


def _cpu_flags() -> set[str]:
    """As the kernel names what this machine's CPU has."""
    return set(
        re.findall(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="ascii"), re.MULTILINE)[0].split()
    )


def _best_library() -> str:
    """Of llama.cpp's libraries in the image, that with the most of what this CPU has."""
    needs = {
        "sapphirerapids": {"avx512f", "avx512vbmi", "avx512_vnni", "avx512_bf16", "amx_int8"},
        "zen4": {"avx512f", "avx512vbmi", "avx512_vnni", "avx512_bf16"},
        "cascadelake": {"avx512f", "avx512_vnni"},
        "skylakex": {"avx512f"},
        "alderlake": {"avx2", "avx_vnni"},
        "haswell": {"avx2"},
    }
    return next(name for name, flags in needs.items() if flags <= _cpu_flags())


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


def test_the_contract_suite_passes_for_every_variant(run: Run, story: tuple[str, ...], kept: dict[str, Path]) -> None:
    """Every variant of every image that runs on a CPU; a failure is either declared in image.yaml or a defect."""
    size = ("--samples", "8", "--batch-sizes", "8", "--max-new-tokens", "16")
    jobs = make_plan(Suite(images=("all",), variants=("all",)), Catalogue(), "cpu").jobs
    for name, _, model in _models(story):
        there = [job for job in jobs if _is_too_narrow(job) == (name == "wide")]
        images = ",".join(sorted({job.image.name for job in there}))
        variants = ",".join(job.title for job in there)
        done = run("--images", images, "--variants", variants, *model, *size, "--self-check", **kept)
        assert done.returncode == 0, done.stdout + done.stderr
        for job in there:
            assert f"{job.title}  forced_length: passed" in done.stdout
            assert f"{job.title}  rows_run_together: passed" in done.stdout


def _is_too_narrow(job: Job) -> bool:
    """Whether it cannot run on the made model: AWQ's kernels want inputs of 32 at least, and its layers' are fewer."""
    return job.image.name in TOO_NARROW_FOR or job.variant.startswith("awq")


ROPE_OF_LLAMA_3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "asked", "lost"),
    [
        (
            "ctranslate2.int8.b1",
            {"rope_parameters": ROPE_OF_LLAMA_3, "rope_scaling": ROPE_OF_LLAMA_3},
            "rope_parameters",
        ),
        ("llama-cpp-python.q4_k_m.b1", {"hidden_act": "relu"}, "hidden_act"),
    ],
)
def test_what_a_converter_leaves_out_is_told_and_not_measured(
    run: Run, tmp_path: Path, kept: dict[str, Path], cell: str, asked: dict[str, object], lost: str
) -> None:
    """CTranslate2's converter passes over the rope of Llama 3.1, llama.cpp's over a Llama's activation: the row says
    so, with the field's name."""
    model = story_model(tmp_path / lost)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps({**config, **asked}), encoding="utf-8")
    done = run(
        "--images", cell.partition(".")[0], "--model", str(model), "--dataset", "embedded", "--samples", "4",
        "--batch-sizes", "1", "--max-new-tokens", "4", *BARE, "--run-id", "lost", **kept,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    verdict = Verdict.read(layout.cell_folder(tmp_path / "results" / "lost", cell) / layout.OUTCOME_FILE)
    assert verdict.outcome.value == "unsupported"
    assert "does not compute what this model's config.json asks for" in verdict.cause
    assert f"without effect: {lost}" in verdict.cause


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
