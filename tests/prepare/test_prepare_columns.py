"""Which part of a row is the prompt: said, the same for every source, and refused where it is not plain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import huggingface_hub
import pytest
from page_lines import Line, page_lines
from prepare_material import jsonl

from bench_core.contract.errors import BadInput
from bench_core.contract.records.prompt_source import PromptSource
from bench_core.contract.records.workload import Workload
from bench_core.prepare.prompts.columns import KNOWN_NAMES
from bench_core.prepare.prompts.tokenizer import ByteTokenizer
from bench_core.prepare.prompts.workload import WorkloadRequest, prepare_workload, survey_workload

BYTES = ByteTokenizer()
FOX = [{"role": "user", "content": "Tell me about a fox."}]


def prepared(rows: Sequence[Any], folder: Path, column: str | None = None) -> Workload:
    path = jsonl(folder / "rows.jsonl", list(rows))
    request = WorkloadRequest(dataset=str(path), text_column=column, max_prompt_tokens=512)
    _path, workload = prepare_workload(request, BYTES, folder / "data")
    survey = survey_workload(request)
    assert survey is not None
    assert survey.source == workload.prompt_source
    return workload


def texts(workload: Workload) -> list[str]:
    return [BYTES.decode(prompt) for prompt in workload.prompts]


def source_of(workload: Workload) -> PromptSource:
    assert workload.prompt_source is not None
    return workload.prompt_source


def refused(rows: Sequence[Any], folder: Path, column: str | None = None) -> BadInput:
    with pytest.raises(BadInput) as caught:
        prepared(rows, folder, column)
    return caught.value


def rows_of(line: Line) -> list[Any]:
    return [json.loads(row) for row in line.code("rows")]


@pytest.mark.parametrize("line", page_lines("Which column"), ids=lambda line: line.name)
def test_a_row_of_the_page_gives_its_prompt_and_says_from_where(line: Line, tmp_path: Path) -> None:
    workload = prepared(rows_of(line), tmp_path)
    assert texts(workload) == line.code("prompts")
    assert source_of(workload).words == line.cells["what is said"]


@pytest.mark.parametrize("line", page_lines("Columns that are asked for"), ids=lambda line: line.name)
def test_a_column_of_the_page_that_is_asked_for_is_taken(line: Line, tmp_path: Path) -> None:
    (column,) = line.code("--text-column")
    workload = prepared(rows_of(line), tmp_path, column)
    assert texts(workload) == line.code("prompts")
    assert source_of(workload).chosen == "given"


@pytest.mark.parametrize("line", page_lines("Refused rows"), ids=lambda line: line.name)
def test_a_row_of_the_page_is_refused_with_its_hint(line: Line, tmp_path: Path) -> None:
    column = next(iter(line.code("--text-column")), None)
    error = refused(rows_of(line), tmp_path, column)
    assert line.cells["what is said"] in error.cause
    assert line.cells["hint"] in error.hint


def test_the_page_has_the_known_names_in_their_order() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "models-and-data.md").read_text(encoding="utf-8")
    assert ", ".join(f"`{name}`" for name in KNOWN_NAMES) in " ".join(page.split())


# --- what the page does not show line by line ---


@pytest.mark.parametrize("as_parquet", [False, True])
def test_all_sources_choose_by_one_rule(as_parquet: bool, tmp_path: Path) -> None:
    """JSON lines, parquet, a folder of it, and a saved dataset."""
    rows = [{"id": "a1", "conversations": [{"from": "human", "value": "Tell me about a fox."}]}]
    made = datasets.Dataset.from_list(rows)
    (tmp_path / "set").mkdir()
    if as_parquet:
        made.to_parquet(str(tmp_path / "set" / "a.parquet"))
    else:
        made.to_json(str(tmp_path / "set" / "a.jsonl"))
    made.save_to_disk(str(tmp_path / "saved"))
    for path in (next((tmp_path / "set").iterdir()), tmp_path / "set", tmp_path / "saved"):
        request = WorkloadRequest(dataset=str(path), max_prompt_tokens=512)
        _path, workload = prepare_workload(request, BYTES, tmp_path / "data")
        assert texts(workload) == ["Tell me about a fox."]
        assert source_of(workload).words == (
            "column 'conversations' (a known name), of each conversation the first turn of the user"
        )


def test_the_hub_goes_by_the_same_rule_and_a_kept_copy_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's own streaming reads a local file here; only the two calls that need a network are played."""
    source = jsonl(
        tmp_path / "hub.jsonl", [{"id": "a1", "messages": [{"role": "system", "content": "Be kind."}, *FOX]}]
    )
    real = datasets.load_dataset
    calls = []

    def load(_name: str, **options: Any) -> Any:
        calls.append(options)
        return real("json", data_files=str(source), split="train", streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", load)
    info = type("Info", (), {"sha": "c" * 40})
    monkeypatch.setattr(huggingface_hub, "HfApi", type("Api", (), {"dataset_info": lambda _s, _n: info}))
    request = WorkloadRequest(dataset="owner/chats", max_prompt_tokens=512)
    first, second = (prepare_workload(request, BYTES, tmp_path / "data")[1] for _ in range(2))
    assert len(calls) == 1
    assert first == second
    assert texts(first) == ["Tell me about a fox."]
    assert source_of(first).system_left_out == 1
    assert survey_workload(request) is None


def test_a_column_of_the_hub_that_is_not_plain_is_refused_and_nothing_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = jsonl(tmp_path / "hub.jsonl", [{"left": "some words", "right": "more words"}])
    real = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda _n, **_o: real("json", data_files=str(source), split="train", streaming=True)
    )
    info = type("Info", (), {"sha": "c" * 40})
    monkeypatch.setattr(huggingface_hub, "HfApi", type("Api", (), {"dataset_info": lambda _s, _n: info}))
    with pytest.raises(BadInput, match=r"left \(text\), right \(text\)"):
        prepare_workload(WorkloadRequest(dataset="owner/pairs", max_prompt_tokens=512), BYTES, tmp_path / "data")
    assert not (tmp_path / "data").exists()


NEVER = ["a1", "https://example.org/ab", "2024-01-02 10:00:00", "0123abcd" * 8, "42", "positive", "1 234 567"]


@pytest.mark.parametrize("value", NEVER)
@pytest.mark.parametrize("name", ["thing", "doc_id", "pageURL"])
def test_ids_addresses_dates_labels_and_hashes_are_never_guessed(name: str, value: str, tmp_path: Path) -> None:
    assert "which column holds the prompts?" in refused([{name: value}, {name: value}], tmp_path).cause


def test_one_text_of_several_words_makes_a_column_text(tmp_path: Path) -> None:
    rows = [{"id": f"a{n}", "ask": ask} for n, ask in enumerate(["Hello!", "Why?", "What is a fox?"])]
    assert texts(prepared(rows, tmp_path)) == ["Hello!", "Why?", "What is a fox?"]


def test_a_script_without_spaces_is_text(tmp_path: Path) -> None:
    rows = [{"id": "a1", "ask": "狐狸是什么动物"}, {"id": "a2", "ask": "蜗牛呢"}]
    assert texts(prepared(rows, tmp_path)) == ["狐狸是什么动物", "蜗牛呢"]


def test_a_column_whose_first_rows_are_null_is_seen(tmp_path: Path) -> None:
    rows = [*({"id": "a1", "messages": None} for _ in range(9)), {"id": "a2", "messages": FOX}]
    workload = prepared(rows, tmp_path)
    assert texts(workload) == ["Tell me about a fox."]
    assert workload.dropped_empty == 9


def test_what_is_left_out_of_conversations_is_counted_and_said(tmp_path: Path) -> None:
    system, greeting = {"role": "system", "content": "Be kind."}, {"role": "assistant", "content": "Hello!"}
    rows = [{"messages": m} for m in ([system, *FOX], [greeting, *FOX], [system, greeting, *FOX], FOX, [greeting], [])]
    workload = prepared(rows, tmp_path)
    assert len(workload.prompts) == 4
    assert workload.dropped_empty == 2
    assert (source_of(workload).system_left_out, source_of(workload).begun_by_others) == (2, 2)
    assert "system prompts left out: 2; conversations that others begin: 2" in source_of(workload).words


def test_a_later_row_of_another_kind_is_named(tmp_path: Path) -> None:
    error = refused([{"messages": FOX}, {"messages": "a text"}], tmp_path)
    assert "rows.jsonl:2: the column 'messages' is not a conversation but str" in error.cause
    error = refused([{"text": "a text"}, {"text": FOX}], tmp_path)
    assert "rows.jsonl:2: the column 'text' is not text but conversation" in error.cause


def test_a_workload_of_before_says_nothing_of_its_column(tmp_path: Path) -> None:
    workload = prepared([{"text": "a fox"}], tmp_path)
    old = json.loads(workload.model_dump_json())
    del old["prompt_source"]
    read = Workload.parse(json.dumps(old), "old")
    assert read.prompt_source is None
    assert read.reference.agrees(workload.reference)
    assert workload.reference.agrees(read.reference)


def test_a_workload_of_another_column_does_not_agree(tmp_path: Path) -> None:
    rows = [{"text": "a fox", "story": "a fox"}]
    found, given = prepared(rows, tmp_path), prepared(rows, tmp_path, "story")
    named = prepared(rows, tmp_path, "text")
    assert found.digest == given.digest
    assert not found.reference.agrees(given.reference)
    assert found.reference.agrees(named.reference)
