"""Text from people is data: whatever it holds, the answer is a mapping or one line that names the place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_core.contract.errors import BadInput
from bench_core.contract.records import strict_yaml
from bench_core.contract.records.record import Record


class Inner(Record):
    """A record inside another."""

    size: int = 0


class Settings(Record):
    """A record to parse into."""

    name: str
    inner: Inner = Inner()
    sizes: tuple[int, ...] = ()


def refusal(text: str) -> str:
    with pytest.raises(BadInput) as caught:
        strict_yaml.parse(text, "some.yaml")
    assert "\n" not in str(caught.value)
    return caught.value.cause


def parsed_or_refused(text: str) -> strict_yaml.Document | BadInput:
    """Either answer is right where this is used; only a crash is not."""
    try:
        return strict_yaml.parse(text, "some.yaml")
    except BadInput as error:
        return error


def nested(levels: int) -> str:
    """A document with that many mappings in one another."""
    return "{a: " * levels + "1" + "}" * levels


def test_plain_data_comes_out_with_the_line_of_every_key() -> None:
    document = strict_yaml.parse("# a comment\na: 1\nb:\n  c: [x, y]\n  d:\n    - 2.5\n    - null\n", "f")
    assert document.content == {"a": 1, "b": {"c": ["x", "y"], "d": [2.5, None]}}
    assert document.line_of(("a",)) == 2
    assert document.line_of(("b", "c", 1)) == 4
    assert document.line_of(("b", "d", 1)) == 7


def test_a_path_without_a_line_of_its_own_has_its_ancestors() -> None:
    document = strict_yaml.parse("a:\n  b: 1\n", "f")
    assert document.line_of(("a", "missing", "deeper")) == 1
    assert document.line_of(("a", "b", "below a scalar")) == 2
    assert document.line_of(()) == 1


def test_the_limit_on_size_counts_bytes_and_is_exact() -> None:
    room = strict_yaml.MAX_BYTES - len("a: ")
    assert strict_yaml.parse("a: " + "x" * room, "f").content["a"] == "x" * room
    assert "larger than 256 KiB" in refusal("a: " + "x" * (room + 1))
    assert "larger than 256 KiB" in refusal("a: " + "é" * (room // 2 + 1))


def test_the_limit_on_depth_is_exact() -> None:
    assert strict_yaml.parse(nested(strict_yaml.MAX_DEPTH), "f").content
    assert refusal(nested(strict_yaml.MAX_DEPTH + 1)) == "some.yaml:1: nested deeper than 20 levels"


def test_a_file_of_brackets_is_refused_before_it_is_built() -> None:
    assert "nested deeper" in refusal("a:\n  " + "[" * 200_000)
    assert "some.yaml:2:" in refusal("a:\n  " + "[" * 200_000)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a: &x 1\nb: *x\n", "some.yaml:2: aliases (*name) are not allowed here"),
        ("a: 1\nb: 2\na: 3\n", "some.yaml:3: the key 'a' stands twice"),
        ("a:\n  b: 1\n  c:\n    - {d: 1, d: 2}\n", "some.yaml:4: the key 'd' stands twice"),
        ("", "some.yaml:1: expected a mapping of keys and values"),
        ("# only a comment\n", "some.yaml:1: expected a mapping of keys and values"),
        ("- a\n- b\n", "some.yaml:1: expected a mapping of keys and values"),
        ("just words\n", "some.yaml:1: expected a mapping of keys and values"),
        ("1: a\n", "some.yaml:1: every key must be text"),
    ],
)
def test_what_is_not_one_mapping_of_named_values_is_refused_by_line(text: str, cause: str) -> None:
    assert refusal(text) == cause


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1, 2\n", 3),
        ("a: 1\n\tb: 2\n", 2),
        ('a: 1\nb: "never closed\n', 3),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: 1\nb: !own 2\n", 2),
        ("? [a, b]\n: 1\n", 1),
    ],
)
def test_broken_text_is_refused_with_its_line(text: str, line: int) -> None:
    assert refusal(text).startswith(f"some.yaml:{line}: ")


def test_tags_that_make_objects_are_refused_and_run_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for tag in ("object/apply:os.mkdir", "object/new:os.mkdir", "name:os.mkdir", "module:os"):
        assert "some.yaml:1:" in refusal(f"a: !!python/{tag} [{trace}]")
    assert not trace.exists()


@pytest.mark.parametrize(
    "value",
    [
        "!!int ''", "!!int x", "!!float ''", "!!float x", "!!bool perhaps", "!!timestamp soon",
        "!!timestamp 2001-99-99",
        "!!binary é", "!!set [a]", "!!omap {a: 1}", "!!pairs x", "!!map x", "!!seq x", "1" * 5000, "0x", "190:20:30e",
        '"\\ud800"', '"\\UFFFFFFFF"', '"\\xZZ"', "\x00", "\x1b[2J", "<<: 1", "!!merge x",
    ],
)  # fmt: skip
def test_a_value_that_is_not_what_its_tag_says_is_refused_or_read_but_never_crashes(value: str) -> None:
    found = parsed_or_refused(f"a: {value}")
    if isinstance(found, BadInput):
        assert found.cause.startswith("some.yaml")
    else:
        assert set(found.content) == {"a"}


# Pieces that mean something to YAML: joined at random they reach far more of a parser than random letters do.
PIECES = st.sampled_from(
    [*"abe01:-?[]{}&*!|>'\"%@`#,.~+=<\\\t\n \r\x00\u2028\ufeff\x85é", "\n  ", "\n- ", ": ", "a: ", "? ", "---\n",
     "...\n", "%YAML 1.2\n", "%TAG ! x\n", "!!int ", "!!float ", "!!bool ", "!!timestamp ", "!!binary ", "!!set ",
     "!!omap ", "!!null ", "!!str ", "!!python/name:os", "&a ", "*a ", "<<: ", "|2\n", ">-\n", "\\x", "\\u12", "0x",
     "0b", "1e9", "2001-01-01", "12:30:45", ".inf", ".nan", "yes", "null"]
)  # fmt: skip


@settings(max_examples=400)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map("".join)))
def test_no_text_whatever_gets_out_of_the_parser_but_as_a_mapping_or_bad_input(text: str) -> None:
    for candidate in (text, f"a: {text}"):
        found = parsed_or_refused(candidate)
        if isinstance(found, BadInput):
            assert "\n" not in str(found)
        else:
            assert all(isinstance(key, str) for key in found.content)


@settings(max_examples=200)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_no_text_gets_into_a_record_but_through_its_validation(text: str) -> None:
    for candidate in (text, f"name: {text}", f"name: x\ninner: {text}", f"name: x\nsizes: {text}"):
        try:
            found: Settings | BadInput = strict_yaml.parse_as(Settings, candidate, "some.yaml")
        except BadInput as error:
            found = error
        assert "\n" not in str(found) if isinstance(found, BadInput) else isinstance(found.name, str)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("name: x\nsizes:\n  - 1\n  - two\n", "some.yaml:4: sizes.1: "),
        ("name: x\ninner:\n  size: big\n", "some.yaml:3: inner.size: "),
        ("\n\ninner: {}\n", "some.yaml:1: name: Field required"),
    ],
)
def test_a_wrong_value_is_named_with_line_and_key(text: str, cause: str) -> None:
    with pytest.raises(BadInput) as caught:
        strict_yaml.parse_as(Settings, text, "some.yaml")
    assert caught.value.cause.startswith(cause)


def test_a_wrong_key_is_named_with_line_and_the_keys_that_are_known() -> None:
    with pytest.raises(BadInput) as caught:
        strict_yaml.parse_as(Settings, "name: x\nsize: 3\n", "some.yaml")
    assert caught.value.cause.startswith("some.yaml:2: size: ")
    assert caught.value.hint == "known keys: name, inner, sizes"
