"""Records, digests, names, outcomes: what both sides must agree on to the byte."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.records import layout
from bench_core.contract.records.digest import entries_sha256, file_sha256, prompts_sha256, text_sha256
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_OK, Outcome, Verdict
from bench_core.contract.records.record import Record
from bench_core.contract.records.run import RunRecord

PROMPTS = st.lists(st.lists(st.integers(0, 2**31), max_size=6), max_size=6)


class Numbers(Record):
    """A record with a number and a list."""

    value: float
    items: tuple[int, ...] = ()


def test_a_record_survives_its_own_json() -> None:
    verdict = Verdict(outcome=Outcome.OOM_KV, cause="ümlaut \u2028 and ☃", judged_by="driver", evidence={"a": "1"})
    assert Verdict.parse(verdict.to_json(), "outcome.json") == verdict
    assert verdict.to_json().endswith("}\n")


def test_a_record_cannot_be_changed_and_takes_no_unknown_key() -> None:
    numbers = Numbers(value=1.0)
    with pytest.raises(ValidationError):
        numbers.value = 2.0  # type: ignore[misc]  # that it is refused at run time too is the point
    with pytest.raises(BadInput, match="valu: unknown key"):
        Numbers.parse('{"value": 1, "valu": 2}', "n.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    with pytest.raises(BadInput, match="value: "):
        Numbers.parse(f'{{"value": {number}}}', "n.json")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('{"value": "x"}', "n.json: value: "),
        ('{"value": 1, "items": [1, "two", "three"]}', "n.json: items.1: "),
        ("{}", "n.json: value: Field required"),
        ("", "n.json: "),
        ("[" * 100_000, "n.json: "),
        (b"\xff\xfe", "n.json: "),
        ('{"value": "line one\\nline two"}', "n.json: value: "),
    ],
)
def test_a_damaged_record_is_refused_in_one_line_that_names_the_file(text: str | bytes, cause: str) -> None:
    with pytest.raises(BadInput) as caught:
        Numbers.parse(text, "n.json")
    assert caught.value.cause.startswith(cause)
    assert "\n" not in str(caught.value)
    assert len(caught.value.cause) < 400
    assert "Numbers" in caught.value.hint


def test_the_number_of_further_problems_is_told() -> None:
    with pytest.raises(BadInput, match=r"\(and 1 more\)"):
        Numbers.parse('{"value": "x", "items": 3}', "n.json")


@settings(max_examples=200)
@given(
    st.one_of(st.text(), st.binary(), st.dictionaries(st.sampled_from(["outcome", "cause", "x"]), st.text()).map(str))
)
def test_no_content_of_a_file_raises_anything_but_bad_input(content: str | bytes) -> None:
    with pytest.raises(BadInput):
        Verdict.parse(content, "outcome.json")


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(BadInput) as caught:
            Numbers.read(path)
        assert caught.value.cause.startswith(f"{path}: ")


def test_bad_input_is_always_one_line_of_cause_and_one_of_hint() -> None:
    error = BadInput("a\n  b\tc", " do\nthis ")
    assert (error.cause, error.hint, str(error)) == ("a b c", "do this", "a b c (do this)")
    assert str(BadInput("only a cause")) == "only a cause"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("\n\n  CUDA   error:\nmore"), "RuntimeError: CUDA error:"),
        (ValueError(), "ValueError"),
        (RuntimeError("bell \x07 and escape \x1b[2J"), "RuntimeError: bell ? and escape ?[2J"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_the_first_line_of_an_error_is_printable_and_starts_with_its_type(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_the_first_line_of_an_error_is_bounded() -> None:
    line = first_line(RuntimeError("x" * 10_000))
    assert 290 < len(line) <= 300
    assert line.endswith(f"… ({10_000 - line.count('x')} more characters)"), "and says what is left out"


# Digests: computed here from the description alone, with hashlib and struct.


def test_prompts_are_digested_as_little_endian_64_bit_lengths_and_ids() -> None:
    content = struct.pack("<q3q", 3, 1, 2, 300) + struct.pack("<q", 0) + struct.pack("<q1q", 1, 2**40)
    assert prompts_sha256([[1, 2, 300], [], [2**40]]) == hashlib.sha256(content).hexdigest()
    assert prompts_sha256([]) == hashlib.sha256(b"").hexdigest()


def test_a_published_digest_stays_what_it_is() -> None:
    """A change of the digest's recipe would make every workload and result of the past unverifiable."""
    assert prompts_sha256([[1]]) == hashlib.sha256(b"\1" + b"\0" * 7 + b"\1" + b"\0" * 7).hexdigest()


@given(PROMPTS, PROMPTS)
def test_prompts_that_differ_anywhere_or_are_cut_elsewhere_have_another_digest(
    one: list[list[int]], other: list[list[int]]
) -> None:
    assert (prompts_sha256(one) == prompts_sha256(other)) == (one == other)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=12), st.data())
def test_where_one_prompt_ends_and_the_next_begins_matters(ids: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(ids) - 1))
    assert prompts_sha256([ids]) != prompts_sha256([ids[:cut], ids[cut:]])
    assert prompts_sha256([ids[:cut], ids[cut:]]) == prompts_sha256([tuple(ids[:cut]), tuple(ids[cut:])])


def test_a_folder_is_digested_by_names_and_contents_in_any_order() -> None:
    expected = hashlib.sha256(b"a\x00beef\nb/c\x00cafe\n").hexdigest()
    assert entries_sha256([("b/c", "cafe"), ("a", "beef")]) == expected
    assert entries_sha256([("a", "beef"), ("b/c", "cafe")]) == expected
    assert entries_sha256([("a", "cafe"), ("b/c", "beef")]) != expected


@pytest.mark.parametrize("size_bytes", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 7])
def test_a_file_is_digested_whole_whatever_its_size(tmp_path: Path, size_bytes: int) -> None:
    content = bytes(range(256)) * (size_bytes // 256) + b"x" * (size_bytes % 256)
    (tmp_path / "f").write_bytes(content)
    assert file_sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_text_is_digested_in_utf8_even_with_lone_surrogates() -> None:
    assert text_sha256("é") == hashlib.sha256(b"\xc3\xa9").hexdigest()
    assert text_sha256("\ud800") == hashlib.sha256(b"\xed\xa0\x80").hexdigest()


# Names.


@pytest.mark.parametrize(
    "name", ["a", "0", "null", "llama-cpp-python", "q4_k_m", "a.b", "x" * 64, "20260102t030405z-a"]
)
def test_names_that_are_fit_for_a_path(name: str) -> None:
    assert layout.is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/a",
        "a..b",
        "-a",
        "a-",
        ".a",
        "a.",
        "A",
        "é",
        "a b",
        "a\n",
        "a\0",
        "x" * 65,
    ],
)
def test_names_that_could_leave_their_folder_or_differ_between_systems_are_refused(name: str) -> None:
    assert not layout.is_name(name)


@settings(max_examples=300)
@given(st.text(max_size=100))
def test_a_slug_of_any_text_is_a_name_of_at_most_48(text: str) -> None:
    assert layout.is_name(layout.slug(text))
    assert len(layout.slug(text)) <= 48


def test_a_slug_stays_readable() -> None:
    assert layout.slug("roneneldan/TinyStories") == "roneneldan-tinystories"
    assert layout.slug("///") == "unnamed"


def test_a_cell_is_named_by_image_variant_and_batch_size() -> None:
    assert layout.cell_id("null", "scripted", "b16") == "null.scripted.b16"
    assert layout.cell_id("null", "scripted", "b16", 1) == "null.scripted.b16"
    assert layout.cell_id("null", "scripted", "b16", 3) == "null.scripted.b16.r3"
    assert layout.cell_folder(Path("r/x"), "c") == Path("r/x/cells/c")
    assert len(set(layout.CELL_FILES)) == 5


def test_every_outcome_has_an_exit_code_of_its_own() -> None:
    codes = [outcome.worker_exit_code for outcome in Outcome]
    assert len(set(codes)) == len(codes)
    assert Outcome.OK.worker_exit_code == EXIT_OK
    assert Outcome.BAD_SPEC.worker_exit_code == EXIT_BAD_INPUT
    assert all(0 <= code < 126 for code in codes), "codes from 126 on are the shell's and Docker's"


def test_a_record_of_before_visits_and_repeats_is_read_as_one_visit() -> None:
    """Published runs stay readable: they tell of one visit, which planned all cells, once each."""
    root = Path(__file__).resolve().parents[2]
    record = RunRecord.read(root / "results" / "published" / "2026-11-23-cpu-smollm2-b" / layout.RUN_FILE)
    assert record.visits == ()
    (visit,) = record.all_visits
    assert visit.cells == tuple(cell.cell for cell in record.cells)
    assert (visit.started_utc, visit.git_commit, visit.launcher) == (
        record.created_utc,
        record.git_commit,
        record.launcher,
    )
    assert {cell.repeat for cell in record.cells} == {1}
    assert {info.recipe for info in visit.images.values()} == {None}


def test_weights_take_four_or_two_bytes_each() -> None:
    """As stored: 32-bit or one of the 16-bit types."""
    root = Path(__file__).resolve().parents[2]
    model = RunRecord.read(
        root / "results" / "published" / "2026-11-23-cpu-smollm2-b" / layout.RUN_FILE
    ).model.model_copy(update={"parameters": 10})
    sizes = {dtype: model.model_copy(update={"dtype": dtype}).weights_bytes for dtype in ("float32", "bfloat16")}
    assert sizes == {"float32": 40, "bfloat16": 20}
