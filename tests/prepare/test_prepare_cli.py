"""``python -m bench_core.prepare``: one line of cause and one of hint, exit code 2, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from made_model import story_model, write_stories
from prepare_material import STORIES, jsonl, toy_model, tree

from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records import layout
from bench_core.contract.records.workload import Prepared, Workload
from bench_core.prepare.cli import main
from bench_core.prepare.prompts.workload import read_workload


def test_the_defaults_prepare_the_tiny_model_and_the_embedded_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    prepared = Prepared.read(tmp_path / "data" / layout.PREPARED_FILE)
    workload = read_workload(tmp_path / "data" / prepared.workload)
    model = ModelInfo.read(tmp_path / "models" / prepared.model_folder / layout.MODEL_FILE)
    assert workload.name == "embedded"
    assert model.name == "synthetic/tiny"
    assert max(max(prompt) for prompt in workload.prompts) < model.vocab_size


def test_prompts_are_shuffled_unless_the_datasets_order_is_asked_for(tmp_path: Path) -> None:
    places = ["--data", str(tmp_path / "data"), "--models", str(tmp_path / "models"), "--samples", "12"]

    def workload(*arguments: str) -> Workload:
        assert main([*places, *arguments]) == 0
        return read_workload(tmp_path / "data" / Prepared.read(tmp_path / "data" / layout.PREPARED_FILE).workload)

    default, own = workload(), workload("--sample-order", "dataset")
    assert (default.sample_seed, own.sample_seed) == (0, None)
    assert default.prompts != own.prompts
    assert default == workload("--sample-seed", "0")
    assert workload("--sample-seed", "1").prompts not in (default.prompts, own.prompts)


def test_a_model_of_ones_own_with_stories_of_ones_own(tmp_path: Path) -> None:
    stories = write_stories(tmp_path / "stories.jsonl", 1000)
    arguments = [
        "--model", str(story_model(tmp_path / "stories")), "--dataset", str(stories),
        "--samples", "64", "--max-prompt-tokens", "256",
        "--data", str(tmp_path / "data"), "--models", str(tmp_path / "models"),
    ]  # fmt: skip
    assert main(arguments) == 0
    prepared = Prepared.read(tmp_path / "data" / layout.PREPARED_FILE)
    workload = read_workload(tmp_path / "data" / prepared.workload)
    assert len(workload.prompts) == 64
    assert workload.longest == 256


@pytest.mark.parametrize(
    ("arguments", "cause", "hint"),
    [
        (["--samples", "x"], "--samples", "--help"),
        (["--samples", "0"], "--samples", "--help"),
        (["--max-prompt-tokens", "-1"], "--max-prompt-tokens", "--help"),
        (["--no-such-option"], "--no-such-option", "--help"),
        (["extra"], "extra", "--help"),
        (["--model", "synthetic/lama-2-7b"], "no synthetic shape", "synthetic/llama-2-7b"),
        (["--model", "/absent"], "no such model folder", "synthetic/tiny"),
        (["--dataset", "absent.jsonl"], "no such file", "embedded"),
        (["--dataset", "broken.jsonl"], "broken.jsonl:2: not JSON", "one JSON object per line"),
        (["--dataset", "empty.txt"], "empty dataset", "prompts"),
        (["--tokenizer", "."], "has no tokenizer.json", "--tokenizer"),
        (["--data", "broken.jsonl/data"], "Not a directory", "writable"),
    ],
)
def test_bad_input_is_two_lines_and_exit_code_2(
    arguments: list[str],
    cause: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (tmp_path / "empty.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()[-2:]
    assert lines[0].startswith("error: ")
    assert cause in lines[0]
    assert lines[1].startswith("hint: ")
    assert hint in lines[1]
    assert not (tmp_path / "data").exists()
    if "--data" not in arguments:
        assert not (tmp_path / "models").exists()


def test_an_earlier_note_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--samples", "8"]) == 0
    before = tree(tmp_path)
    jsonl(tmp_path / "long.jsonl", [{"text": STORIES[0]}])
    toy_model(tmp_path / "toy")
    assert main(["--model", "toy", "--dataset", "embedded", "--max-prompt-tokens", "900"]) == 2
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before


def test_nothing_heavy_is_imported_for_the_help_text() -> None:
    """The driver imports this room; its own --help must be there at once."""
    program = (
        "import sys; import bench_core.prepare.cli; "
        "heavy = {'datasets', 'huggingface_hub', 'numpy', 'pyarrow', 'tokenizers', 'safetensors', 'torch', 'docker'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
