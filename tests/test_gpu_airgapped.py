"""tests/gpu/airgapped.sh: what it builds, when a stage begins, when it gives up. All that it calls is a stand-in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

HOST = """#!/bin/sh
folder=$1; shift 2
echo "host $*" >> $CALLS
mkdir -p $folder/built $folder/failed
echo "export FROM_HOST=yes" > $folder/env.sh
touch $folder/installed
for image in "$@"; do sleep 0.2; echo "built $image" >> $CALLS; touch $folder/built/$image; done
sleep 0.5
echo "host ended" >> $CALLS
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The script beside stand-ins for what it calls, each of which writes down its words."""
    for name, text in {
        "docker/airgap/receive.sh": "#!/bin/sh\n",
        "docker/airgap/host.sh": HOST,
        "tests/gpu/acceptance.sh": '#!/bin/sh\necho "acceptance $FROM_HOST $*" >> $CALLS\n[ "$FAIL" != yes ]\n',
        "python": '#!/bin/sh\necho "python $*" >> $CALLS\n',
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    shutil.copy(ROOT / "tests/gpu/airgapped.sh", tmp_path / "tests/gpu")
    return tmp_path


def visit(tree: Path, *words: str, **more: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    done = subprocess.run(
        [str(tree / "tests/gpu/airgapped.sh"), str(tree / "parts"), str(tree / "work"), str(tree / "python"), *words],
        env={"CALLS": str(tree / "calls"), "PATH": "/usr/bin:/bin", **more},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    calls = tree / "calls"
    return done, calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []


def test_the_images_of_the_stages_are_built_in_their_order(tree: Path) -> None:
    done, calls = visit(tree, "check-vllm", "parity-auto-gptq,vllm", "memory", "repeats")
    assert done.returncode == 0, done.stderr
    assert calls[0] == "host null gptqmodel vllm auto-gptq transformers exllama exllamav2"


def test_images_of_the_stages_for_two_gpus(tree: Path) -> None:
    done, calls = visit(tree, "pair", "pair-serving", "pool")
    assert done.returncode == 0, done.stderr
    assert calls[0] == "host null vllm gptqmodel exllamav2 transformers"


def test_images_of_the_stages_of_one_engine(tree: Path) -> None:
    done, calls = visit(tree, "lmdeploy", "exllamav3")
    assert done.returncode == 0, done.stderr
    assert calls[0] == "host null gptqmodel lmdeploy exllamav3", "the weights that LMDeploy reads are GPTQModel's"


def test_the_model_of_another_shape_is_made_too(tree: Path) -> None:
    done, calls = visit(tree, "--shape", "llama-3.1-8b", "headline-sglang,vllm")
    assert done.returncode == 0, done.stderr
    assert calls[0] == "host null gptqmodel sglang vllm"
    assert sum("--model synthetic/llama-3.1-8b " in call for call in calls if "bench_core.prepare" in call) == 1
    assert any("--shape llama-3.1-8b" in call and call.endswith("headline-sglang,vllm") for call in calls)


def test_a_contract_suite_begins_with_its_image_and_what_is_timed_when_nothing_else_goes_on(tree: Path) -> None:
    done, calls = visit(tree, "check-exllama", "parity-exllama", "memory")
    assert done.returncode == 0, done.stderr
    begins = [
        calls.index(next(call for call in calls if call.endswith(stage)))
        for stage in ("check-exllama", "parity-exllama")
    ]
    assert calls.index("built exllama") < begins[0] < calls.index("built vllm") < calls.index("host ended") < begins[1]
    made = [number for number, call in enumerate(calls) if "bench_core.prepare" in call]
    assert len(made) == 2
    assert max(made) < begins[1]


def test_options_reach_who_needs_them_and_time_is_what_is_left(tree: Path) -> None:
    _, calls = visit(tree, "--results", "r", "--models", "m", "--seconds", "500", "check-exllama")
    stage = next(call for call in calls if call.startswith("acceptance")).split()
    assert stage[1:6] == ["yes", "--results", "r", "--models", "m"]
    assert 480 < int(stage[stage.index("--seconds") + 1]) <= 500
    assert all("--models m" in call and "--results" not in call for call in calls if "bench_core.prepare" in call)


def test_stages_that_failed_are_counted(tree: Path) -> None:
    done, _ = visit(tree, "check-exllama", "repeats", FAIL="yes")
    assert done.returncode == 2


def test_a_host_that_cannot_be_made_ready_ends_it_in_its_words(tree: Path) -> None:
    (tree / "docker/airgap/host.sh").write_text("#!/bin/sh\necho no Docker answers\nexit 1\n", encoding="utf-8")
    done, calls = visit(tree, "check-exllama")
    assert done.returncode == 1
    assert "no Docker answers" in done.stderr
    assert calls == []


def test_an_unknown_stage_is_refused_at_once(tree: Path) -> None:
    done, calls = visit(tree, "check-vllm", "everything")
    assert done.returncode == 2
    assert "unknown stage: everything" in done.stderr
    assert calls == []
