"""One rule for numbers and one for foreign text, whatever they are."""

from __future__ import annotations

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bench_core.report.format import count, csv_text, gib, markdown_text, quantity, significant
from bench_core.system.text import LONGEST_FOREIGN, foreign, one_line


@given(st.floats(min_value=1e-12, max_value=1e15), st.integers(min_value=2, max_value=6))
def test_a_number_is_written_to_its_digits(value: float, digits: int) -> None:
    """What is written lies within half a unit of the last significant digit."""
    written = float(significant(value, digits))
    assert math.isclose(written, value, rel_tol=0.5000001 * 10.0 ** (1 - digits))


@given(st.floats(min_value=1e-4, max_value=9.9e14))
def test_a_number_has_at_least_four_digits_and_no_exponent(value: float) -> None:
    """Columns stay comparable: 4 significant digits, plain decimals."""
    text = significant(value)
    assert "e" not in text
    assert len(text.replace(".", "").lstrip("0")) >= 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9.9999, "10.00"),
        (0.99996, "1.000"),
        (1234.5678, "1235"),
        (123456.7, "123457"),
        (0.0123456, "0.01235"),
        (0.00001, "1.000e-05"),
        (0, "0"),
        (-2.5, "-2.500"),
        (float("inf"), "not finite"),
        (float("nan"), "not finite"),
    ],
)
def test_edges_of_a_number(value: float, text: str) -> None:
    """Rounding up to a power of ten, large whole numbers, tiny ones, none at all."""
    assert significant(value) == text


def test_counts_and_memory() -> None:
    """Whole counts without a point; memory with its unit; plurals."""
    assert (count(800.0), count(799.25)) == ("800", "799.2")
    assert gib(13 * 2**30) == "13.0 GiB"
    assert (quantity(1, "batch"), quantity(2, "batch"), quantity(3, "prompt")) == ("1 batch", "2 batches", "3 prompts")


HOSTILE = st.text(alphabet=st.sampled_from("ab_ |`*<>[]()!#\\&~$@:/.w\n\r\t\x00\u202e-+=1"), max_size=40)


@given(HOSTILE)
def test_foreign_text_is_shown_as_it_is_by_markdown(text: str) -> None:
    """In a table, rendered with HTML switched on, any text comes out as one cell with that text and no markup."""
    page = f"| a | b |\n|---|---|\n| x {markdown_text(text)} y | z |\n"
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(page)
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 4
    children = cells[2].children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    assert "".join(child.content for child in children).split() == f"x {one_line(text)} y".split()
    assert cells[3].content == "z"


@given(st.text(max_size=40))
def test_foreign_text_is_one_line_and_no_formula_in_csv(text: str) -> None:
    """A field is never a second line, and never what a spreadsheet would compute."""
    target = io.StringIO()
    csv.writer(target).writerow([csv_text(text)])
    (row,) = csv.reader(io.StringIO(target.getvalue()))
    assert "\n" not in row[0]
    assert not row[0].startswith(("=", "+", "-", "@"))


def test_what_others_wrote_is_bounded_and_says_how_much_is_left_out() -> None:
    """An engine may print a megabyte in one line."""
    shown = foreign("x" * 10_000)
    assert len(shown) <= LONGEST_FOREIGN
    kept, _, rest = shown.partition("… (")
    assert rest == f"{10_000 - len(kept)} more characters)"
    assert foreign("x" * LONGEST_FOREIGN) == "x" * LONGEST_FOREIGN


@given(st.integers(min_value=0, max_value=3000))
def test_text_of_the_reports_own_is_whole_whatever_its_length(length: int) -> None:
    """Markdown and CSV dress a text and never cut it."""
    text = "a note " * (length // 7)
    assert markdown_text(text) == csv_text(text) == text.strip()


def test_links_are_inert() -> None:
    """GitHub links bare addresses and mentions; a cause may hold either."""
    shown = markdown_text("see https://evil.example and www.evil.example or @someone")
    assert "://" not in shown
    assert "www." not in shown
    assert "@" not in shown
