"""A workload is the source's prompts in order, as ids, what was done to them counted; it is whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import huggingface_hub
import pytest
from made_model import story_model, write_stories
from prepare_material import STORIES, jsonl, toy_model

from bench_core.contract.errors import BadInput
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.workload import Workload, require_fit, shuffled_order
from bench_core.prepare.models.model import ModelRequest, prepare_model
from bench_core.prepare.prompts import sources
from bench_core.prepare.prompts.tokenizer import ByteTokenizer, load_tokenizer
from bench_core.prepare.prompts.workload import (
    WorkloadRequest,
    prepare_workload,
    read_workload,
    survey_workload,
)

BYTES = ByteTokenizer()
ROWS = [{"text": story} for story in STORIES]


def prepared(dataset: Path | str, data: Path, **options: Any) -> Workload:
    request = WorkloadRequest(dataset=str(dataset), **{"max_prompt_tokens": 512, **options})
    path, workload = prepare_workload(request, BYTES, data)
    assert read_workload(path) == workload
    return workload


def decoded(workload: Workload) -> list[str]:
    return [BYTES.decode(prompt) for prompt in workload.prompts]


def refused(dataset: Path | str, data: Path, **options: Any) -> BadInput:
    """The refusal of a dataset; survey says the same, and nothing is written."""
    request = WorkloadRequest(dataset=str(dataset), **{"max_prompt_tokens": 512, **options})
    with pytest.raises(BadInput) as caught:
        prepare_workload(request, BYTES, data)
    with pytest.raises(BadInput) as surveyed:
        survey_workload(request)
    assert str(surveyed.value) == str(caught.value)
    assert not data.exists()
    assert "\n" not in str(caught.value)
    return caught.value


# --- every kind of source gives its texts in order ---


def as_jsonl(folder: Path) -> Path:
    return jsonl(folder / "stories.jsonl", ROWS)


def as_json_lines_with_bom(folder: Path) -> Path:
    path = folder / "stories.json"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(json.dumps(row) for row in ROWS).encode())
    return path


def as_parquet(folder: Path) -> Path:
    path = folder / "stories.parquet"
    datasets.Dataset.from_list(ROWS).to_parquet(str(path))
    return path


def as_text(folder: Path) -> Path:
    path = folder / "stories.txt"
    path.write_text("\n".join(STORIES) + "\n")
    return path


def as_folder_of_texts(folder: Path) -> Path:
    home = folder / "texts"
    home.mkdir()
    for number, story in reversed(list(enumerate(STORIES))):
        (home / f"{number:02d}.txt").write_text(story + "\n")
    return home


def as_saved_dataset(folder: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def as_saved_splits(folder: Path) -> Path:
    other = datasets.Dataset.from_list([{"text": "not this one"}])
    splits = datasets.DatasetDict({"train": other, "validation": datasets.Dataset.from_list(ROWS)})
    splits.save_to_disk(str(folder / "splits"))
    return folder / "splits"


def as_folder_of_data(folder: Path) -> Path:
    home = folder / "stories"
    home.mkdir()
    jsonl(home / "validation.jsonl", ROWS)
    jsonl(home / "train.jsonl", [{"text": "not this one"}])
    return home


def as_folder_of_one_parquet(folder: Path) -> Path:
    home = folder / "stories"
    home.mkdir()
    as_parquet(home)
    return home


KINDS = [
    as_jsonl,
    as_json_lines_with_bom,
    as_parquet,
    as_text,
    as_folder_of_texts,
    as_saved_dataset,
    as_saved_splits,
    as_folder_of_data,
    as_folder_of_one_parquet,
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_local_source_gives_its_texts_in_order(kind: Any, tmp_path: Path) -> None:
    path = kind(tmp_path)
    workload = prepared(path, tmp_path / "data")
    assert decoded(workload) == list(STORIES)
    assert workload.name == path.name
    assert workload.digest == prompts_sha256([BYTES.encode(story) for story in STORIES])


@pytest.mark.parametrize("kind", KINDS)
def test_samples_takes_from_the_front(kind: Any, tmp_path: Path) -> None:
    assert decoded(prepared(kind(tmp_path), tmp_path / "data", samples=2)) == list(STORIES[:2])


def test_local_data_does_not_fill_the_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    prepared(as_parquet(tmp_path), tmp_path / "data")
    assert not list(cache.rglob("*.arrow"))


def test_the_embedded_prompts_are_many_different_and_short(tmp_path: Path) -> None:
    workload = prepared("embedded", tmp_path / "data")
    texts = decoded(workload)
    assert len(texts) >= 80
    assert len(set(texts)) == len(texts)
    assert workload.duplicates == workload.truncated == workload.dropped_empty == 0
    assert all(5 <= len(text.split()) <= 60 for text in texts)
    assert workload.name == "embedded"


def test_stories_with_a_tokenizer_of_words(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(story_model(tmp_path / "stories"))
    stories = write_stories(tmp_path / "stories.jsonl", 1000)
    request = WorkloadRequest(dataset=str(stories), samples=200, max_prompt_tokens=256)
    _path, workload = prepare_workload(request, tokenizer, tmp_path)
    assert len(workload.prompts) == 200
    assert workload.tokenizer == tokenizer.digest
    assert workload.longest == 256
    assert 0 < workload.truncated < 200
    assert {prompt[0] for prompt in workload.prompts} == {1}


# --- what is done to prompts, and that it is counted ---


def test_truncation_keeps_the_end_and_the_bos(tmp_path: Path) -> None:
    """Engines are trained to see BOS first; without it the first token's attention, and the text, change."""
    path = jsonl(tmp_path / "a.jsonl", [{"text": "abcdefgh"}, {"text": "xyz"}])
    workload = prepared(path, tmp_path / "data", max_prompt_tokens=4)
    assert decoded(workload) == ["fgh", "xyz"]
    assert [prompt[0] for prompt in workload.prompts] == [1, 1]
    assert workload.truncated == 1
    assert workload.max_prompt_tokens == workload.longest == 4


def test_a_tokenizer_without_bos_loses_only_from_the_left(tmp_path: Path) -> None:
    class Bare(ByteTokenizer):
        prefix_tokens = 0

        def encode(self, text: str) -> list[int]:
            return super().encode(text)[1:]

    request = WorkloadRequest(dataset=str(jsonl(tmp_path / "a.jsonl", [{"text": "abcdefgh"}])), max_prompt_tokens=3)
    _path, workload = prepare_workload(request, Bare(), tmp_path / "data")
    assert BYTES.decode(workload.prompts[0]) == "fgh"


def test_a_limit_that_leaves_no_room_beside_the_bos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="puts 1 special tokens first"):
        prepare_workload(WorkloadRequest(dataset="embedded", max_prompt_tokens=1), BYTES, tmp_path)


def test_empty_texts_are_dropped_and_do_not_count_as_samples(tmp_path: Path) -> None:
    rows = [{"text": value} for value in ("", "one", None, " \n", "two", "three")]
    workload = prepared(jsonl(tmp_path / "a.jsonl", rows), tmp_path / "data", samples=2)
    assert decoded(workload) == ["one", "two"]
    assert workload.dropped_empty == 3


def test_duplicates_stay_and_are_counted(tmp_path: Path) -> None:
    rows = [{"text": value} for value in ("a", "b", "a", "a")]
    workload = prepared(jsonl(tmp_path / "a.jsonl", rows), tmp_path / "data")
    assert decoded(workload) == ["a", "b", "a", "a"]
    assert workload.duplicates == 2


def test_fewer_prompts_than_asked_for_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    request = WorkloadRequest(dataset=str(as_jsonl(tmp_path)), samples=99, max_prompt_tokens=512)
    _path, workload = prepare_workload(request, BYTES, tmp_path / "data", said.append)
    assert len(workload.prompts) == len(STORIES)
    assert any("99 prompts were asked for" in line and "only 4" in line for line in said)
    survey = survey_workload(request)
    assert survey is not None
    assert survey.prompts == 4


def test_the_only_split_of_a_local_dataset_is_taken_and_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    request = WorkloadRequest(dataset=str(as_folder_of_one_parquet(tmp_path)), split="test", max_prompt_tokens=512)
    prepare_workload(request, BYTES, tmp_path / "data", said.append)
    assert any("'test'" in line and "'train'" in line for line in said)


# --- columns ---


def test_the_only_text_column_is_found(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"id": 1, "story": "x"}, {"id": 2, "story": "y"}])
    assert decoded(prepared(path, tmp_path / "data")) == ["x", "y"]


def test_a_named_column_wins_over_text(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "no", "story": "x"}])
    assert decoded(prepared(path, tmp_path / "data", text_column="story")) == ["x"]


@pytest.mark.parametrize("as_file", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("row", "column", "cause"),
    [
        ({"a": "x y", "b": "y z"}, None, "which column holds the prompts? Columns: a (text), b (text)"),
        ({"a": 1}, None, "Columns: a (number)"),
        ({"a": "x"}, "b", "no column 'b'"),
        ({"text": 7}, None, "Columns: text (number)"),
        ({"text": 7}, "text", "the column 'text' is not text but number"),
    ],
)
def test_a_column_that_cannot_be_taken_is_named(
    row: dict[str, Any], column: str | None, cause: str, as_file: str, tmp_path: Path
) -> None:
    path = tmp_path / f"rows.{as_file}"
    if as_file == "jsonl":
        jsonl(path, [row])
    else:
        datasets.Dataset.from_list([row]).to_parquet(str(path))
    assert cause in refused(path, tmp_path / "data", text_column=column).cause


# --- what cannot be read, with file and line ---


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b'{"text": "half', "not JSON"),
        (b'["text"]', "not a JSON object"),
        (b'{"other": "x"}', "no column 'text'"),
        (b'{"text": 5}', "not text but int"),
        (b'{"text": "caf\xe9"}', "not UTF-8: byte 0xe9"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_line_is_named_with_file_and_number(line: bytes, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + line + b'\n{"text": "after"}\n')
    error = refused(path, tmp_path / "data")
    assert f"{path}:3: " in error.cause
    assert cause in error.cause


def test_a_line_after_the_samples_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\nbroken\n')
    assert decoded(prepared(path, tmp_path / "data", samples=1)) == ["fine"]


def test_invalid_utf8_in_a_text_file_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(b"one\ntwo \xff\n")
    assert f"{path}:2: not UTF-8: byte 0xff at position 5" in refused(path, tmp_path / "data").cause


def empty_jsonl(folder: Path) -> Path:
    return jsonl(folder / "a.jsonl", [])


def blank_text(folder: Path) -> Path:
    (folder / "a.txt").write_text(" \n\n")
    return folder / "a.txt"


def empty_parquet(folder: Path) -> Path:
    features = datasets.Features({"text": datasets.Value("string")})
    datasets.Dataset.from_dict({"text": []}, features=features).to_parquet(str(folder / "a.parquet"))
    return folder / "a.parquet"


@pytest.mark.parametrize("kind", [empty_jsonl, blank_text, empty_parquet])
def test_an_empty_dataset_is_refused(kind: Any, tmp_path: Path) -> None:
    assert "an empty dataset" in refused(kind(tmp_path), tmp_path / "data").cause


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("a.parquet", b"PAR1 nothing of the kind", "cannot be read"),
        ("a.xlsx", b"PK", "does not end in .xlsx"),
        ("a.parquet.gz", b"PAR1", "does not end in .parquet.gz"),
        ("a", b"text", "does not end in nothing"),
    ],
)
def test_a_file_that_is_no_dataset_is_refused(name: str, content: bytes, cause: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert cause in refused(tmp_path / name, tmp_path / "data").cause


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no data files" in refused(tmp_path / "empty", tmp_path / "data").cause


def test_a_split_that_a_local_dataset_lacks_is_refused_with_its_splits(tmp_path: Path) -> None:
    error = refused(as_saved_splits(tmp_path), tmp_path / "data", split="test")
    assert "no split 'test'" in error.cause
    assert "train, validation" in error.hint


@pytest.mark.parametrize("name", ["./absent", "absent.jsonl", "/absent/x", "a/b/c", "", "x\0y", "-x", "../up"])
def test_a_name_that_is_no_dataset_is_refused(name: str, tmp_path: Path) -> None:
    refused(name, tmp_path / "data")


def test_an_unreadable_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_jsonl(tmp_path)
    monkeypatch.setattr(Path, "open", _denied)
    assert "Permission denied" in refused(path, tmp_path / "data").cause


def _denied(self: Path, *_args: object, **_options: object) -> object:
    raise PermissionError(13, "Permission denied", str(self))


# --- the file ---


def test_the_digest_is_stable_and_names_the_file(tmp_path: Path) -> None:
    path, workload = prepare_workload(
        WorkloadRequest(dataset=str(as_jsonl(tmp_path)), max_prompt_tokens=512), BYTES, tmp_path / "data"
    )
    digest = hashlib.sha256()
    for story in STORIES:
        ids = [1, *(byte + 3 for byte in story.encode())]
        digest.update(struct.pack(f"<{1 + len(ids)}q", len(ids), *ids))
    assert workload.digest == digest.hexdigest()
    assert path == tmp_path / "data" / "workloads" / f"stories.jsonl-{workload.digest[:12]}.json"


def test_a_whole_file_is_used_again_and_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    request = WorkloadRequest(dataset=str(as_jsonl(tmp_path)), max_prompt_tokens=512)
    path, first = prepare_workload(request, BYTES, tmp_path / "data")
    status = path.stat()
    prepare_workload(request, BYTES, tmp_path / "data")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput):
        read_workload(path)
    prepare_workload(request, BYTES, tmp_path / "data")
    assert read_workload(path) == first


def test_a_changed_prompt_is_noticed_when_read(tmp_path: Path) -> None:
    path, _workload = prepare_workload(WorkloadRequest(dataset="embedded", max_prompt_tokens=512), BYTES, tmp_path)
    content = json.loads(path.read_text())
    content["prompts"][3][2] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(BadInput, match="do not match the digest"):
        read_workload(path)


def test_a_crash_while_writing_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(BadInput, match="No space left"):
        prepared("embedded", tmp_path / "data")
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_a_hostile_name_stays_in_the_folder(tmp_path: Path) -> None:
    path = jsonl(tmp_path / ("..%2f" + "x" * 200 + ".jsonl"), ROWS)
    made, _workload = prepare_workload(
        WorkloadRequest(dataset=str(path), max_prompt_tokens=512), BYTES, tmp_path / "data"
    )
    assert made.parent == tmp_path / "data" / "workloads"
    assert len(made.name) < 80


# --- the hub, played by local data ---


class FakeHub:
    """Stands for the two library calls that reach the hub; counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: Sequence[dict[str, Any]], folder: Path) -> None:
        self.calls: list[dict[str, Any]] = []
        source = jsonl(folder / "hub.jsonl", list(rows))
        real = datasets.load_dataset

        def load(path: str, **options: Any) -> Any:
            if path != "owner/stories":
                return real(path, **options)
            self.calls.append(options)
            if options["split"] != "validation":
                raise ValueError("Bad split: other. Available splits: ['validation']")
            return real("json", data_files=str(source), split="train", streaming=True)

        class Api:
            def dataset_info(self, _name: str) -> Any:
                return type("Info", (), {"sha": "c" * 40})

        monkeypatch.setattr(datasets, "load_dataset", load)
        monkeypatch.setattr(huggingface_hub, "HfApi", Api)


def test_a_hub_dataset_is_fetched_once_and_then_read_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub(monkeypatch, [{"text": ""}, *ROWS], tmp_path)
    first = prepared("owner/stories", tmp_path / "data", samples=3)
    assert decoded(first) == list(STORIES[:3])
    assert first.dropped_empty == 1
    assert first.name == "owner/stories:validation"
    assert prepared("owner/stories", tmp_path / "data", samples=3) == first
    assert [call["revision"] for call in hub.calls] == ["c" * 40]


def test_a_wrong_split_on_the_hub_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeHub(monkeypatch, ROWS, tmp_path)
    with pytest.raises(BadInput, match="Available splits") as caught:
        prepared("owner/stories", tmp_path / "data", split="other")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_a_local_path_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner").mkdir()
    as_jsonl(tmp_path).rename(tmp_path / "owner" / "stories")
    monkeypatch.chdir(tmp_path)
    assert sources.local_path("owner/stories") == Path("owner/stories")


# --- the model that will read it ---


def test_ids_and_lengths_must_fit_the_model(tmp_path: Path) -> None:
    model = prepare_model(ModelRequest(name=str(toy_model(tmp_path / "toy"))), tmp_path / "models")
    workload = prepared("embedded", tmp_path / "data", max_prompt_tokens=64)
    require_fit(workload, model, (1,), max_new_tokens=64)
    with pytest.raises(BadInput, match="exceed the context of toy, 128 tokens"):
        require_fit(workload, model, (1,), max_new_tokens=65)
    with pytest.raises(BadInput, match="has a vocabulary of 100"):
        require_fit(workload, model.model_copy(update={"vocab_size": 100}), (1,), max_new_tokens=1)


# --- order ---


def test_prompts_are_the_first_of_the_dataset_in_an_order_that_follows_from_the_seed(tmp_path: Path) -> None:
    path = as_jsonl(tmp_path)
    own = prepared(path, tmp_path / "data", samples=6)
    shuffled = prepared(path, tmp_path / "data", samples=6, sample_seed=7)
    other = prepared(path, tmp_path / "data", samples=6, sample_seed=8)
    assert (own.sample_seed, shuffled.sample_seed, other.sample_seed) == (None, 7, 8)
    assert decoded(own) == list(STORIES[:6])
    assert sorted(shuffled.prompts) == sorted(other.prompts) == sorted(own.prompts), "the first six, all of them"
    orders = {own.prompts, shuffled.prompts, other.prompts}
    assert len(orders) == len({w.digest for w in (own, shuffled, other)}) == 3, "the digest is of the order, too"
    assert prepared(path, tmp_path / "elsewhere", samples=6, sample_seed=7) == shuffled
    assert (shuffled.reference.sample_seed, own.reference.sample_seed) == (7, None)


def test_another_seed_is_another_file_and_the_same_one_is_used_again(tmp_path: Path) -> None:
    def file(seed: int | None) -> Path:
        request = WorkloadRequest(dataset=str(as_jsonl(tmp_path)), max_prompt_tokens=512, sample_seed=seed)
        return prepare_workload(request, BYTES, tmp_path / "data")[0]

    one = file(1)
    before = one.stat().st_mtime_ns
    assert len({one, file(2), file(None)}) == 3
    assert file(1) == one
    assert one.stat().st_mtime_ns == before


def test_a_file_of_the_same_order_by_chance_tells_the_seed_that_was_asked_for(tmp_path: Path) -> None:
    """One prompt has one order: the digest is the same, and so is the file's name."""
    assert prepared(as_jsonl(tmp_path), tmp_path / "data", samples=1).sample_seed is None
    assert prepared(as_jsonl(tmp_path), tmp_path / "data", samples=1, sample_seed=3).sample_seed == 3


def test_a_file_of_before_prompts_were_shuffled_is_in_the_datasets_own_order(tmp_path: Path) -> None:
    request = WorkloadRequest(dataset=str(as_jsonl(tmp_path)), max_prompt_tokens=512)
    path, workload = prepare_workload(request, BYTES, tmp_path / "data")
    content = json.loads(path.read_text())
    del content["sample_seed"]
    path.write_text(json.dumps(content))
    assert read_workload(path) == workload
    assert workload.reference.order == "the dataset's own order"


def test_the_shuffle_is_one_that_any_program_can_repeat() -> None:
    """Places sorted by SHA-256 of ``seed/place``: nothing of Python's own generator is in it."""
    by_hand = [(hashlib.sha256(f"5/{place}".encode()).hexdigest(), place) for place in range(100)]
    assert shuffled_order(100, 5) == [place for _, place in sorted(by_hand)]


def test_every_place_is_as_likely_for_every_prompt() -> None:
    """Chi-square of 4000 shuffles of five: 16 degrees of freedom, above 39.3 by chance in one case of a thousand."""
    counts = [[0] * 5 for _ in range(5)]
    for seed in range(4000):
        for place, prompt in enumerate(shuffled_order(5, seed)):
            counts[place][prompt] += 1
    assert sum((count - 800) ** 2 / 800 for row in counts for count in row) < 39.3
