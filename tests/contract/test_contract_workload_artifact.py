"""What is measured is what was prepared: a changed prompt or a damaged model cannot pass for the true one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_core.contract.errors import BadInput
from bench_core.contract.records import artifact as artifact_module
from bench_core.contract.records.artifact import ArtifactRecord, digest_of_converter, usable_artifact
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.workload import Workload

PROMPTS = ((5, 6, 7), (8, 9), (10,), (11, 12, 13, 14))


def workload(prompts: tuple[tuple[int, ...], ...] = PROMPTS) -> Workload:
    return Workload(
        name="w", tokenizer="byte-level", max_prompt_tokens=4, truncated=0, dropped_empty=0, duplicates=0,
        digest=prompts_sha256(prompts), prompts=prompts,
    )  # fmt: skip


def test_a_workload_survives_its_own_json() -> None:
    assert Workload.parse(workload().to_json(), "w.json") == workload()
    assert workload().longest == 4


def set_item(row: int, column: int, token: int) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["prompts"][row][column] = token

    return change


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (set_item(3, 3, 15), "the prompts do not match the digest"),
        (lambda c: c["prompts"].reverse(), "the prompts do not match the digest"),
        (lambda c: c["prompts"].pop(), "the prompts do not match the digest"),
        (lambda c: c.update(prompts=[[5, 6], [7, 8, 9], [10], [11, 12, 13, 14]]), "do not match the digest"),
        (lambda c: c["prompts"][2].clear(), "a prompt has no token"),
        (set_item(0, 0, -1), "a token id is negative"),
        (set_item(0, 0, 2**63), "prompts.0.0: "),
        (set_item(0, 0, 2**200), "prompts.0.0: "),
        (lambda c: c["prompts"][3].append(15), "a prompt is longer than max_prompt_tokens"),
        (lambda c: c["prompts"].clear(), "prompts: "),
        (lambda c: c.update(schema_version=2), "schema_version: "),
    ],
)
def test_a_workload_that_was_changed_is_refused(change: Callable[[dict[str, Any]], None], cause: str) -> None:
    content = json.loads(workload().to_json())
    change(content)
    with pytest.raises(BadInput) as caught:
        Workload.parse(json.dumps(content), "w.json")
    assert cause in caught.value.cause
    assert "\n" not in str(caught.value)


def test_a_last_batch_that_is_not_full_is_left_out() -> None:
    ten = workload(tuple((token,) for token in range(10)))
    assert ten.batches(4) == [range(4), range(4, 8)]
    assert ten.batches(5) == [range(5), range(5, 10)]
    assert ten.batches(11) == []


@given(st.integers(1, 40), st.integers(1, 45))
def test_batches_are_all_full_in_order_and_without_gaps(count: int, batch_size: int) -> None:
    batches = workload(tuple((token,) for token in range(count))).batches(batch_size)
    assert [index for batch in batches for index in batch] == list(range(count - count % batch_size))
    assert all(len(batch) == batch_size for batch in batches)


# Artifacts.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "ct2"
    (made / "deep").mkdir(parents=True)
    (made / "model.bin").write_bytes(b"weights " * 1000)
    (made / "deep" / "vocabulary.json").write_text("[]")
    return made


def record(folder: Path, **changes: Any) -> ArtifactRecord:
    given: dict[str, Any] = {
        "artifact": "ct2",
        "source_digest": "s" * 64,
        "converter_digest": "r",
        "made_by": "x",
        "seconds": 1.5,
    }
    made = ArtifactRecord.of_folder(folder, **{**given, **changes})
    (folder / "artifact.json").write_text(made.to_json())
    return made


def test_an_artifact_is_recorded_with_all_its_files_but_its_own_record(folder: Path) -> None:
    (folder / "artifact.json").write_text("of an earlier time")
    made = record(folder, facts={"dtype": "int8"})
    assert [file.path for file in made.files] == ["deep/vocabulary.json", "model.bin"]
    assert made.size_bytes == 8002
    assert made.source_digest == "s" * 64
    assert made.facts == {"dtype": "int8"}
    assert ArtifactRecord.read(folder / "artifact.json") == made


def test_a_source_is_its_own_source(folder: Path) -> None:
    made = record(folder, source_digest=None)
    assert made.source_digest == made.digest


def test_the_digest_of_an_artifact_is_of_its_content_not_of_its_times(folder: Path) -> None:
    before = record(folder).digest
    os.utime(folder / "model.bin", (1, 1))
    assert record(folder).digest == before
    (folder / "model.bin").rename(folder / "model2.bin")
    assert record(folder).digest != before


def test_an_empty_folder_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="left no file"):
        record(tmp_path)


def test_an_untouched_artifact_is_whole_and_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = record(folder)

    def read(_: Path) -> str:
        raise AssertionError("an untouched file was read")

    monkeypatch.setattr(artifact_module, "file_sha256", read)
    assert made.damage(folder) is None


def test_a_copied_artifact_with_new_times_is_whole(folder: Path) -> None:
    made = record(folder)
    os.utime(folder / "model.bin", (1, 1))
    assert made.damage(folder) is None


def test_each_kind_of_damage_is_named(folder: Path) -> None:
    made = record(folder)
    path, content = folder / "model.bin", (folder / "model.bin").read_bytes()
    path.write_bytes(content[:-1])
    assert made.damage(folder) == "model.bin has 7999 bytes instead of 8000"
    path.write_bytes(b"X" + content[1:])
    os.utime(path, (1, 1))
    assert made.damage(folder) == "the content of model.bin has changed"
    path.unlink()
    assert made.damage(folder) == "model.bin is missing"


def test_an_artifact_is_used_only_if_of_this_source_this_converter_and_whole(folder: Path) -> None:
    made = record(folder)
    assert usable_artifact(folder, "s" * 64, "r") == made
    assert usable_artifact(folder, "s" * 64, None) == made
    assert usable_artifact(folder, "t" * 64, "r") is None
    assert usable_artifact(folder, "s" * 64, "another converter") is None
    named_of_old = (folder / "artifact.json").read_text().replace('"converter_digest"', '"recipe"')
    (folder / "artifact.json").write_text(named_of_old)
    assert usable_artifact(folder, "s" * 64, "r") == made, "the field's former name is read, too"
    (folder / "model.bin").unlink()
    assert usable_artifact(folder, "s" * 64, "r") is None


def test_a_folder_without_a_readable_record_is_no_usable_artifact(folder: Path) -> None:
    assert usable_artifact(folder, "s" * 64, None) is None
    (folder / "artifact.json").write_text("{")
    assert usable_artifact(folder, "s" * 64, None) is None


def test_a_converters_digest_is_of_its_modules_and_the_pins_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "convert.py").write_text("a")
    (tmp_path / "requirements.txt").write_text("b")
    before = digest_of_converter(tmp_path)
    (tmp_path / "adapter.py").write_text("how it runs does not change what is converted")
    assert digest_of_converter(tmp_path) == before
    for name in ("convert.py", "requirements.txt"):
        old = (tmp_path / name).read_text()
        (tmp_path / name).write_text("changed")
        assert digest_of_converter(tmp_path) != before
        (tmp_path / name).write_text(old)
    (tmp_path / "requirements.convert.txt").write_text("")
    assert digest_of_converter(tmp_path) != before
