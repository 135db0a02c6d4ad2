"""Whatever a person gets wrong: one line of cause, one of what to do, exit code 2, and nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Drive

from bench_core.contract.records.layout import HF_ARTIFACT
from bench_core.contract.records.outcome import EXIT_MACHINE
from bench_core.prepare.models.model import ModelRequest, prepare_model

QUICK = ("--images", "null", "--device", "cpu", "--launcher", "process", "--samples", "8", "--batch-sizes", "1")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model in a folder."""
    root = tmp_path_factory.mktemp("model")
    info = prepare_model(ModelRequest(name="synthetic/tiny"), root, lambda _line: None)
    return root / info.folder / HF_ARTIFACT


def _copy(source: Path, target: Path, without: str = "nothing") -> Path:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(without))
    return target


def _refused(drive: Drive, tmp_path: Path, *arguments: str, code: int = 2) -> str:
    before = sorted(tmp_path.rglob("*"))
    called = drive(*QUICK, *arguments)
    assert called.code == code, called
    lines = called.err.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"], called.err
    assert "Traceback" not in called.err
    assert sorted(tmp_path.rglob("*")) == before, "something was written"
    return called.err


def test_an_unknown_image_is_answered_with_the_nearest_and_all_known(drive: Drive, tmp_path: Path) -> None:
    text = _refused(drive, tmp_path, "--images", "transfomers")
    assert "did you mean transformers?" in text
    assert all(name in text for name in ("null", "ctranslate2", "llama-cpp-python"))


@pytest.mark.parametrize("word", ["nonsense", "null.nonsense"])
def test_an_unknown_variant_is_answered_with_the_known_ones(drive: Drive, tmp_path: Path, word: str) -> None:
    assert "scripted" in _refused(drive, tmp_path, "--variants", word)


def test_a_variant_of_an_image_outside_the_run_is_refused(drive: Drive, tmp_path: Path) -> None:
    called = drive(*QUICK, "--variants", "transformers.fp32")
    assert called.code == 2
    assert "not among the images" in called.err


@pytest.mark.parametrize("word", ["0", "-1", "x", "1,0", "", "1.5"])
def test_batch_sizes_are_whole_numbers_of_one_or_more(drive: Drive, tmp_path: Path, word: str) -> None:
    assert "--batch-sizes" in _refused(drive, tmp_path, f"--batch-sizes={word}")


def test_a_batch_larger_than_the_workload_is_refused(drive: Drive, tmp_path: Path) -> None:
    assert "needs at least 16 prompts" in _refused(drive, tmp_path, "--batch-sizes", "16")


def test_a_missing_model_folder(drive: Drive, tmp_path: Path) -> None:
    assert "nowhere" in _refused(drive, tmp_path, "--model", str(tmp_path / "nowhere"))


def test_a_model_folder_without_tokenizer(drive: Drive, tmp_path: Path, model_folder: Path) -> None:
    folder = _copy(model_folder, tmp_path / "model", without="tokenizer*")
    assert "tokenizer" in _refused(drive, tmp_path, "--model", str(folder))


def test_natural_length_needs_an_end_of_text(drive: Drive, tmp_path: Path, model_folder: Path) -> None:
    """Every row would run to the limit under a name that says that it may end before."""
    folder = _copy(model_folder, tmp_path / "model")
    for name in ("config.json", "generation_config.json"):
        content = json.loads((folder / name).read_text())
        del content["eos_token_id"]
        (folder / name).write_text(json.dumps(content))
    said = _refused(drive, tmp_path, "--model", str(folder), "--length", "natural")
    assert "names no end-of-sequence id" in said
    assert "--length forced" in said


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_an_end_of_text_in_either_file_is_one(drive: Drive, tmp_path: Path, model_folder: Path, file: str) -> None:
    folder = _copy(model_folder, tmp_path / "model")
    other = {"config.json": "generation_config.json"}.get(file, "config.json")
    content = json.loads((folder / other).read_text())
    del content["eos_token_id"]
    (folder / other).write_text(json.dumps(content))
    called = drive(*QUICK, "--model", str(folder), "--length", "natural", "--dry-run")
    assert called.code == 0, called.err


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_corrupt_safetensors(drive: Drive, tmp_path: Path, model_folder: Path, damage: str) -> None:
    folder = _copy(model_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"\xff" * 64, "empty": b""}[damage])
    assert "model.safetensors" in _refused(drive, tmp_path, "--model", str(folder))


def test_a_broken_line_in_a_dataset_is_named(drive: Drive, tmp_path: Path) -> None:
    dataset = tmp_path / "d.jsonl"
    dataset.write_text('{"text": "one"}\n{"text": "two"}\n{"text": \n', encoding="utf-8")
    assert "d.jsonl:3" in _refused(drive, tmp_path, "--dataset", str(dataset)).replace(" line ", ":")


def test_an_empty_dataset(drive: Drive, tmp_path: Path) -> None:
    dataset = tmp_path / "d.jsonl"
    dataset.write_text("", encoding="utf-8")
    assert "d.jsonl" in _refused(drive, tmp_path, "--dataset", str(dataset))


def test_a_wrong_key_in_a_suite_file_is_named_with_its_line(drive: Drive, tmp_path: Path) -> None:
    suite = tmp_path / "s.yaml"
    suite.write_text("name: x\nimages: [null]\nbatchsizes: [1]\n", encoding="utf-8")
    text = _refused(drive, tmp_path, "--suite", str(suite))
    assert "s.yaml:3" in text
    assert "batchsizes" in text
    assert "batch_sizes" in text


def test_a_wrong_value_in_a_suite_file_is_named_with_its_line(drive: Drive, tmp_path: Path) -> None:
    suite = tmp_path / "s.yaml"
    suite.write_text("name: x\nbatch_sizes: [1, zero]\n", encoding="utf-8")
    assert "s.yaml:2" in _refused(drive, tmp_path, "--suite", str(suite))


@pytest.mark.parametrize("place", ["file/results", "/proc/results"])
def test_a_results_folder_that_cannot_be_written(drive: Drive, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    arguments = [f"--data={tmp_path / 'data'}", f"--models={tmp_path / 'models'}", f"--results={tmp_path / place}"]
    called = drive(*QUICK, *arguments, own_folders=False)
    assert called.code == 2
    assert "cannot be written" in called.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_run_is_never_written_over(drive: Drive, tmp_path: Path) -> None:
    run = tmp_path / "results" / "mine"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}", encoding="utf-8")
    assert "already holds a run" in _refused(drive, tmp_path, "--run-id", "mine")
    assert (run / "run.json").read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize("name", ["../x", "a/b", "UP", "", "a" * 300])
def test_a_run_id_cannot_leave_the_results_folder(drive: Drive, tmp_path: Path, name: str) -> None:
    assert "--run-id" in _refused(drive, tmp_path, f"--run-id={name}")


def test_no_docker_daemon(drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    text = _refused(drive, tmp_path, "--launcher", "docker")
    assert "no Docker daemon" in text
    assert "--launcher process" in text


def test_cuda_without_a_gpu(drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench_core.drive.run.gpus.visible_gpus", list)
    assert "no GPU" in _refused(drive, tmp_path, "--device", "cuda")


def test_not_enough_disk_for_a_conversion(drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage._replace(free=1 << 20))
    text = _refused(drive, tmp_path, "--images", "ctranslate2", code=EXIT_MACHINE)
    assert "not enough disk" in text
    assert "ct2-int8" in text


@pytest.mark.parametrize("word", ["null", "null.x", "x=1", "nosuch.x=1"])
def test_options_name_image_key_and_value(drive: Drive, tmp_path: Path, word: str) -> None:
    assert drive(*QUICK, "--option", word).code == 2


@pytest.mark.parametrize(("name", "value"), [("--length", "long"), ("--device", "tpu"), ("--launcher", "ssh")])
def test_a_word_that_is_not_among_the_choices_is_refused(drive: Drive, tmp_path: Path, name: str, value: str) -> None:
    assert name in _refused(drive, tmp_path, name, value)


def test_json_mode_keeps_standard_output_to_json(drive: Drive, tmp_path: Path) -> None:
    called = drive(*QUICK, "--dry-run", "--json")
    assert called.code == 0
    plan = json.loads(called.out)
    assert plan["cells"] == ["null.scripted.b1"]


def test_a_dry_run_writes_nothing(drive: Drive, tmp_path: Path) -> None:
    called = drive(*QUICK, "--images", "all", "--dry-run")
    assert called.code == 0, called.err
    assert list(tmp_path.iterdir()) == []
    assert "to convert: ct2-int8" in called.out


@pytest.mark.parametrize("arguments", [("--samples", "0"), ("--samples", "x"), ("--nonsense",), ("stray",)])
def test_what_the_command_line_itself_refuses_reads_the_same(
    drive: Drive, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    _refused(drive, tmp_path, *arguments)
