"""Bytes of weights and of the cache, of tiny checkpoints of many architectures, against what transformers holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docker
import pytest
from conftest import ROOT, Run
from tiny_checkpoints import CHECKPOINTS, ROWS, UNKNOWN

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.asked.protocol import MeasureProtocol
from bench_core.contract.asked.scenario import Offline
from bench_core.contract.errors import BadInput
from bench_core.contract.measures.roofline import weights_in_memory
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.models.model_work import decoder_of, kv_cache_bytes, kv_step_bytes
from bench_core.contract.models.steps import DecodeSteps
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import WorkloadRef
from bench_core.prepare.models.model import ModelRequest, prepare_model
from bench_core.prepare.prompts.tokenizer import ByteTokenizer

pytestmark = [pytest.mark.docker, pytest.mark.checkpoints]

SCRIPTS = ROOT / "tests" / "models"
WITHIN = 0.01
NO_FIGURE_OF_A_STEP = {"llama4-beyond-a-chunk"}


def in_image(client: docker.DockerClient, image: str, command: Sequence[str], folder: Path) -> str:
    """Runs Python in an image's folder with the scripts of tests/models beside it; what it printed."""
    said = client.containers.run(
        f"llm-bench/{image}:cpu",
        list(command),
        entrypoint="python",
        working_dir="/opt/bench/image",
        environment={"HF_HUB_OFFLINE": "1", "HF_HOME": "/tmp/hf", "OMP_NUM_THREADS": "1"},  # noqa: S108 - its own
        volumes={str(SCRIPTS): {"bind": "/scripts", "mode": "ro"}, str(folder): {"bind": "/out", "mode": "rw"}},
        network_mode="none",
        user=f"{os.getuid()}:{os.getgid()}",
        tmpfs={"/tmp": ""},  # noqa: S108 - the container's
        remove=True,
    )
    return said.decode()


@pytest.fixture(scope="module")
def made(docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All checkpoints and what transformers measured of them, in its own image."""
    home = tmp_path_factory.mktemp("tiny")
    build = ["--launcher", "docker", "--device", "cpu", "--images", "transformers", "--build-only"]
    subprocess.run([sys.executable, "-m", "bench_core.drive", *build], cwd=ROOT, check=True, timeout=3000)
    in_image(docker_client, "transformers", ["/scripts/tiny_checkpoints.py", "/out"], home)
    return home


def info_of(made: Path, name: str, models: Path) -> ModelInfo | None:
    """As the suite prepares it; ``None`` where it refuses it."""
    for file, content in ByteTokenizer(320).files().items():
        (made / name / file).write_bytes(content)
    try:
        return prepare_model(ModelRequest(name=str(made / name)), models)
    except BadInput:
        return None


def counted(info: ModelInfo, positions: int) -> dict[str, float | None]:
    """The suite's own figures under the names of the script's."""
    spec = CellSpec(
        image="transformers", variant="fp32", label="x", batching="native",
        token_times="live",  # noqa: S106 - no password
        scenario=Offline(batch_size=ROWS),
        device="cpu", threads=1, model=info, artifact="hf", artifact_digest=None, options={},
        workload=WorkloadRef(name="w", digest="d", prompts=ROWS, longest_prompt_tokens=40), max_new_tokens=12,
        length="forced",
        protocol=MeasureProtocol(),
    )  # fmt: skip
    facts = {"dtype": "float32"}
    weights = weights_in_memory(spec, facts)
    assert weights is not None
    steps = DecodeSteps(steps=1, rows=ROWS, step_s=1, context_tokens=positions, context_quantiles=(positions,) * 21)
    return {
        "weights_bytes": weights.total_bytes,
        "step_weights_bytes": weights.read_bytes(info, 1),
        "cache_bytes": kv_cache_bytes(info, 4, ROWS * positions, ROWS),
        "step_cache_bytes": kv_step_bytes(info, 4, steps),
    }


def test_bytes_are_those_that_transformers_holds_or_there_is_no_figure(made: Path, tmp_path: Path) -> None:
    """Within 1 %: all weights, those that one token needs, the cache after a batch that is padded on the left, and what
    its last step was given."""
    measured: dict[str, dict[str, Any]] = json.loads((made / "measured.json").read_text(encoding="utf-8"))
    assert set(measured) == set(CHECKPOINTS)
    wrong, figures = [], set()
    for name, held in measured.items():
        info = info_of(made, name, tmp_path / "models")
        if info is None or decoder_of(info).problem:
            if name not in UNKNOWN:
                wrong.append(f"{name}: no figure, {decoder_of(info).problem if info else 'refused'}")
            continue
        figures.add(name)
        if "error" in held:
            wrong.append(f"{name}: transformers does not run it: {held['error']}")
            continue
        for what, value in counted(info, held["positions"]).items():
            if value is None and what == "step_cache_bytes" and name in NO_FIGURE_OF_A_STEP:
                continue
            if value is None or abs(value - held[what]) > WITHIN * held[what]:
                wrong.append(f"{name}: {what} {value}, transformers {held[what]}")
    assert not wrong, "\n".join(wrong)
    assert len(figures - NO_FIGURE_OF_A_STEP) >= 30
    assert not figures & UNKNOWN


def test_capped_scores_are_not_left_to_an_attention_that_drops_the_cap(
    made: Path, docker_client: docker.DockerClient, run: Run
) -> None:
    """Gemma 2 under scaled-dot-product attention gives other probabilities; adapters take the plain attention there,
    and for architectures that have no other."""
    done = run("--images", "transformers,bitsandbytes", "--build-only")
    assert done.returncode == 0, done.stdout + done.stderr
    names = ("gemma2-capped", "llama-grouped", "codegen")
    for image, variant in (("transformers", "fp32"), ("bitsandbytes", "int8")):
        manifest = Manifest.load(ROOT / "images" / image)
        adapter, options = str(manifest.adapter).partition(":")[2], manifest.variant(variant).options
        folders = [f"/out/{name}" for name in names]
        command = ["/scripts/attention_choice.py", adapter, json.dumps(dict(options)), *folders]
        lines = in_image(docker_client, image, command, made).splitlines()
        found = {line["name"]: line for line in map(json.loads, filter(lambda text: text.startswith("{"), lines))}
        assert {name: found[name]["attention"] for name in names} == {
            "gemma2-capped": "eager", "llama-grouped": "sdpa", "codegen": "eager",
        }, image  # fmt: skip
        if image == "transformers":
            assert found["gemma2-capped"]["eager"] < 1e-4
            dropped = found["gemma2-capped"]["sdpa"]  # None: refused, as later releases do
            assert dropped is None or dropped > 1e-2, "transformers keeps the cap now: the choice can go"
            assert found["llama-grouped"]["sdpa"] < 1e-4
            assert found["codegen"]["sdpa"] is None
