"""Files and folders take the same forms, and a path is opened as it is written, whatever letters are in it."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from page_lines import Line, page_lines
from prepare_material import STORIES, jsonl

from bench_core.contract.errors import BadInput
from bench_core.contract.records.workload import Workload
from bench_core.prepare.prompts.files import COMPRESSIONS, KINDS
from bench_core.prepare.prompts.tokenizer import ByteTokenizer
from bench_core.prepare.prompts.workload import WorkloadRequest, prepare_workload, survey_workload

BYTES = ByteTokenizer()
ROWS = [{"text": story} for story in STORIES]


def prepared(dataset: Path, data: Path, said: Callable[[str], None] = lambda line: None, **options: Any) -> Workload:
    request = WorkloadRequest(dataset=str(dataset), **{"max_prompt_tokens": 512, **options})
    return prepare_workload(request, BYTES, data, said)[1]


def texts(dataset: Path, data: Path, **options: Any) -> list[str]:
    """The prompts in the dataset's order."""
    return [BYTES.decode(prompt) for prompt in prepared(dataset, data, **options).prompts]


def parquet(path: Path, rows: list[dict[str, Any]], kind: Any = None) -> Path:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    pq.write_table(pa.table({name: pa.array(values, kind) for name, values in columns.items()}), path)
    return path


def separated(separator: str) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=separator)
    writer.writerows([["number", "text"], *([str(n), story] for n, story in enumerate(STORIES))])
    return stream.getvalue().encode()


def arrow(path: Path) -> bytes:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, pa.schema([("text", pa.string())])) as writer:
        writer.write_table(pa.table({"text": list(STORIES)}))
    return path.read_bytes()


def content_of(ending: str, scratch: Path) -> bytes:
    """The stories as a file of a form, written by another library than the one that reads it where there is one."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    made: dict[str, Callable[[], bytes]] = {
        ".jsonl": lambda: lines,
        ".ndjson": lambda: lines,
        ".json": lambda: json.dumps(ROWS, indent=1).encode(),
        ".csv": lambda: separated(","),
        ".tsv": lambda: separated("\t"),
        ".txt": lambda: "".join(story + "\n" for story in STORIES).encode(),
        ".parquet": lambda: parquet(scratch, ROWS).read_bytes(),
        ".arrow": lambda: arrow(scratch),
    }
    return made[ending]()


def compressed(content: bytes, ending: str) -> bytes:
    if ending == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return bytes(sink.getvalue().to_pybytes())
    if ending == ".gz":
        return gzip.compress(content)
    return bz2.compress(content) if ending == ".bz2" else lzma.compress(content)


@pytest.mark.parametrize("line", page_lines("Files"), ids=lambda line: line.name)
def test_a_form_of_the_page_is_read_from_a_file_and_from_a_folder(line: Line, tmp_path: Path) -> None:
    for ending in line.code("ending"):
        for compression in ["", *line.code("compressed as")]:
            home = tmp_path / f"as{ending}{compression}"
            home.mkdir()
            content = content_of(ending, tmp_path / "scratch")
            path = home / f"stories{ending}{compression}"
            path.write_bytes(compressed(content, compression) if compression else content)
            workload = prepared(path, tmp_path / "data")
            assert [BYTES.decode(prompt) for prompt in workload.prompts] == list(STORIES)
            assert workload.name == path.name
            in_folder = "\n".join(STORIES) if ending == ".txt" else None
            assert texts(home, tmp_path / "data") == ([in_folder] if in_folder else list(STORIES))


def test_the_page_has_every_form_that_is_taken() -> None:
    lines = page_lines("Files")
    assert {ending for line in lines for ending in line.code("ending")} == set(KINDS)
    assert {ending for line in lines for ending in line.code("compressed as")} == set(COMPRESSIONS)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_every_way_of_parquet_to_hold_text_is_text(kind: Any, tmp_path: Path) -> None:
    assert texts(parquet(tmp_path / "a.parquet", ROWS, kind), tmp_path / "data") == list(STORIES)


def test_an_arrow_file_of_either_format_is_read(tmp_path: Path) -> None:
    table = pa.table({"text": list(STORIES)})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert texts(tmp_path / "a.arrow", tmp_path / "data") == list(STORIES)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_null_or_empty_text_is_left_out_and_counted_wherever_it_stands(
    ending: str, position: int, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{"story": "a fox went"}, {"story": "a snail came"}]
    rows.insert(position, {"story": None})
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        parquet(path, rows)
    elif ending == ".csv":
        path.write_text("story,n\n" + "".join(f"{row['story'] or ''},1\n" for row in rows))
    else:
        path.write_text(json.dumps(rows) if ending == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    workload = prepared(path, tmp_path / "data")
    assert [BYTES.decode(prompt) for prompt in workload.prompts] == ["a fox went", "a snail came"]
    assert workload.dropped_empty == 1


def test_a_csv_is_taken_to_the_letter(tmp_path: Path) -> None:
    """Words that a table reader takes for absent, numbers, quotes, line breaks and very long fields."""
    odd = ["NA", "null", "007", 'she said "no", twice', "two\nlines", "x" * 200_000]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows([["text"], *([text] for text in odd)])
    assert texts(tmp_path / "a.csv", tmp_path / "data", max_prompt_tokens=300_000) == odd


# --- letters that a shell would take for a pattern ---

PATTERNS = ["data [v1]", "what?", "all*", "[ab]", "{a,b}", "**"]


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet", ".arrow", ".txt", ".jsonl.zst"])
def test_a_path_is_no_pattern(name: str, ending: str, tmp_path: Path) -> None:
    """Each of these patterns fits a neighbour, which must not be read."""
    for home, story in [(tmp_path / name, "the right story"), *_neighbours(tmp_path, "the wrong story")]:
        home.mkdir()
        _write(home / f"a{ending}", story)
    assert texts(tmp_path / name / f"a{ending}", tmp_path / "data") == ["the right story"]
    assert texts(tmp_path / name, tmp_path / "data") == ["the right story"]


@pytest.mark.parametrize("name", PATTERNS)
def test_the_folder_of_save_to_disk_is_no_pattern(name: str, tmp_path: Path) -> None:
    for home, story in [(tmp_path / name, "the right story"), *_neighbours(tmp_path, "the wrong story")]:
        datasets.Dataset.from_list([{"text": story}]).save_to_disk(str(home))
    assert texts(tmp_path / name, tmp_path / "data") == ["the right story"]


@pytest.mark.parametrize("name", PATTERNS)
def test_a_file_inside_a_folder_is_no_pattern(name: str, tmp_path: Path) -> None:
    home = tmp_path / "set" / name
    home.mkdir(parents=True)
    _write(home / f"train {name}.jsonl", "the right story")
    assert texts(tmp_path / "set", tmp_path / "data", split="train") == ["the right story"]


def _neighbours(folder: Path, story: str) -> list[tuple[Path, str]]:
    return [(folder / name, story) for name in ("data v", "data 1", "whatx", "all", "allx", "a", "b")]


def _write(path: Path, story: str) -> None:
    if path.suffix == ".parquet":
        parquet(path, [{"text": story}])
    elif path.suffix == ".arrow":
        datasets.Dataset.from_list([{"text": story}]).save_to_disk(str(path.parent / ".saved"))
        next((path.parent / ".saved").glob("*.arrow")).rename(path)
    elif path.suffix == ".txt":
        path.write_text(story + "\n")
    elif path.suffix == ".csv":
        path.write_text(f"text\n{story}\n")
    else:
        line = (json.dumps({"text": story}) + "\n").encode()
        path.write_bytes(compressed(line, ".zst") if path.suffix == ".zst" else line)


# --- names ---


def test_a_file_of_the_hubs_cache_keeps_its_own_name(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "0123abcd"
    blob.parent.mkdir()
    jsonl(blob, ROWS)
    link = tmp_path / "snapshots" / "c" / "stories.jsonl"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../blobs/0123abcd")
    workload = prepared(link, tmp_path / "data")
    assert workload.name == "stories.jsonl"
    assert prepared(link.parent, tmp_path / "data").name == "c"


@pytest.mark.parametrize(("given", "name"), [(".", "set"), ("../set", "set"), ("./a.jsonl", "a.jsonl")])
def test_a_relative_path_has_the_name_of_what_it_means(
    given: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set").mkdir()
    jsonl(tmp_path / "set" / "a.jsonl", ROWS)
    monkeypatch.chdir(tmp_path / "set")
    assert prepared(Path(given), tmp_path / "data").name == name


# --- folders ---


def test_splits_are_found_as_the_hub_names_them(tmp_path: Path) -> None:
    """By shard, by a word of the file's name, by a word of the folder's."""
    for style in ("data/{}-00000-of-00001.jsonl", "my_{}.jsonl", "{}/part.jsonl"):
        home = tmp_path / style.replace("/", "_")
        for split in ("train", "validation", "test"):
            path = home / style.format(split)
            path.parent.mkdir(parents=True, exist_ok=True)
            jsonl(path, [{"text": f"of {split} it is"}])
        assert texts(home, tmp_path / "data") == ["of validation it is"]
        assert texts(home, tmp_path / "data", split="test") == ["of test it is"]


def test_a_split_of_the_publishers_own_name_is_found_by_its_shards(tmp_path: Path) -> None:
    jsonl(tmp_path / "held_out-00000-of-00002.jsonl", [{"text": "first shard"}])
    jsonl(tmp_path / "held_out-00001-of-00002.jsonl", [{"text": "second shard"}])
    jsonl(tmp_path / "train-00000-of-00001.jsonl", [{"text": "not this"}])
    assert texts(tmp_path, tmp_path / "data", split="held_out") == ["first shard", "second shard"]


README = """---
license: mit
configs:
- config_name: {first}
  data_files:
  - split: train
    path: "left/*"
  - split: validation
    path: ["right/a.jsonl"]
{more}---
# A dataset
"""


def test_what_the_readme_says_of_splits_counts(tmp_path: Path) -> None:
    for side in ("left", "right"):
        (tmp_path / "set" / side).mkdir(parents=True)
        jsonl(tmp_path / "set" / side / "a.jsonl", [{"text": f"on the {side}"}])
    (tmp_path / "set" / "README.md").write_text(README.format(first="only", more=""))
    assert texts(tmp_path / "set", tmp_path / "data") == ["on the right"]
    more = "- config_name: other\n  data_files: left/*\n"
    (tmp_path / "set" / "README.md").write_text(README.format(first="one", more=more))
    with pytest.raises(BadInput, match="several subsets: one, other") as caught:
        texts(tmp_path / "set", tmp_path / "data")
    assert "folder or the file of one of them" in caught.value.hint


def test_files_of_two_forms_are_not_read_as_one_dataset(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.csv").write_text("text\nx y\n")
    with pytest.raises(BadInput, match="several forms: 1 csv, 1 json") as caught:
        texts(tmp_path, tmp_path / "data")
    assert "name one file" in caught.value.hint


def test_files_of_no_split_beside_others_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    jsonl(tmp_path / "validation.jsonl", ROWS)
    jsonl(tmp_path / "more.jsonl", [{"text": "left out"}])
    said: list[str] = []
    workload = prepared(tmp_path, tmp_path / "data", said.append)
    assert len(workload.prompts) == len(STORIES)
    assert any("data files of no split, left out: 1" in line for line in said)


def test_a_folder_of_texts_and_its_compressed_ones_give_one_prompt_a_file(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "set" / "b.txt.gz").write_bytes(gzip.compress(b"three\n"))
    assert texts(tmp_path / "set", tmp_path / "data") == ["one\ntwo", "three"]


@pytest.mark.parametrize("line", page_lines("Refused files"), ids=lambda line: line.name)
def test_a_file_of_the_page_is_refused_with_its_hint(line: Line, tmp_path: Path) -> None:
    (name,) = line.code("file")
    content = "".join(line.code("content")).encode().decode("unicode_escape").encode("latin-1")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        texts(tmp_path / name, tmp_path / "data")
    assert line.cells["what is said"] in caught.value.cause
    assert str(tmp_path / name) in caught.value.cause
    assert line.cells["hint"] in caught.value.hint


def test_plain_text_has_no_column_to_ask_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    for path in (tmp_path / "a.txt", tmp_path):
        with pytest.raises(BadInput, match="plain text has no columns") as caught:
            texts(path, tmp_path / "data", text_column="text")
        assert caught.value.hint == "leave --text-column out"


@pytest.mark.parametrize("ending", KINDS)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(ending: str, tmp_path: Path) -> None:
    """Damaged offsets of an Arrow file ended the process before its batches were validated."""
    chance = random.Random(1)  # noqa: S311  # inputs, not secrets
    whole = content_of(ending, tmp_path / "scratch")
    path = tmp_path / f"a{ending}"
    refusals: list[str] = []
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(content))
            content[at : at + chance.randrange(3)] = bytes([chance.randrange(256)])
        path.write_bytes(bytes(content))
        try:
            survey_workload(WorkloadRequest(dataset=str(path), max_prompt_tokens=512))
        except BadInput as error:
            refusals.append(str(error))
    assert refusals
    assert not [words for words in refusals if "\n" in words or str(path) not in words]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_compressed_file_that_is_cut_off_is_one_line(compression: str, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": f"{n * n * 7919} foxes {n}"}) + "\n" for n in range(5000)).encode()
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes(compressed(lines, compression)[:-400])
    with pytest.raises(BadInput, match="cannot be decompressed") as caught:
        texts(path, tmp_path / "data")
    assert compression in caught.value.hint
