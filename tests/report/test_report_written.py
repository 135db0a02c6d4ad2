"""What is written from a run: the Markdown, the page, the figures, the table for a terminal, and the check of them."""

from __future__ import annotations

import csv
import json
import os
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markupsafe import escape
from report_runs import CT2, FP32, SEQUENTIAL, VLLM, Method, Script, cell_path, many_methods, visit_again, write_run
from rich.console import Console
from typer.testing import CliRunner

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome
from bench_core.report.cli import app
from bench_core.report.document import document
from bench_core.report.figures import scaling as figures
from bench_core.report.format import ABSENT
from bench_core.report.page.write import html as html_page
from bench_core.report.write.cell_table import csv_table
from bench_core.report.write.console import console_table
from bench_core.report.write.files import differences, write_report
from bench_core.report.write.markdown import markdown
from bench_core.runs.load import load_run
from bench_core.system.text import one_line

GOLDEN = Path(__file__).parent / "golden" / "report.md"
SVG = "{http://www.w3.org/2000/svg}"

# One of each: outcomes, a cell never reached, sequential batching, all sources of token times.
MIXED = Script(
    (
        replace(FP32, dies={4: (Outcome.OOM_LOAD, "CUDA out of memory. Tried to allocate 2.00 GiB")}),
        VLLM,
        CT2,
        SEQUENTIAL,
        Method("exllama", "gptq", "ExLlama GPTQ", unreached=(1, 4)),
    ),
    batch_sizes=(1, 4),
)


def _markdown(run: Path) -> str:
    return markdown(document(load_run(run)))


def _table(text: str, batch_size: int) -> dict[str, list[str]]:
    """Rows of one batch size's table: method to fields."""
    section = text.split(f"## Batch size {batch_size}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    rows = [[field.strip() for field in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_the_report_is_the_golden_one(tmp_path: Path) -> None:
    """Every character of a report is intended. After an intended change: UPDATE_GOLDEN=1 pytest tests/report, and
    read the difference before it is committed."""
    text = _markdown(write_run(tmp_path, MIXED))
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


PUBLISHED = sorted(path.parent for path in (Path(__file__).parents[2] / "results" / "published").glob("*/run.json"))


@pytest.mark.parametrize("run", PUBLISHED, ids=lambda path: path.name)
@pytest.mark.slow
def test_every_text_of_the_report_s_own_stands_in_it_whole(run: Path) -> None:
    """Facts, meanings of columns and notes, some of which are longer than a foreign text may be."""
    view = load_run(run)
    words = document(view)
    sheets = [*words.glance, *words.results, *words.details, words.images]
    texts = [text for _, text in (*words.facts, *words.meanings)]
    texts += [note for sheet in sheets if sheet.rows for note in sheet.notes]
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown(words))
    shown = ["".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"]
    for text in texts:
        assert any(line.endswith(one_line(text)) for line in shown), text
    page = html_page(view, words, runtime="")
    for text in texts:
        # A footnote's sign is a word on the page, and the note stands without it where one points at the word.
        bare = text.split(" ", 1)[1] if text[0] in "†‡§¶‖≀◊⁂" or text.startswith("busy: ") else text
        assert str(escape(one_line(bare))) in page


def test_what_an_image_tells_a_reader_stands_below_the_engines_whole(tmp_path: Path) -> None:
    """Once for all its variants, however long."""
    told = "A kernel that rounds scales to bfloat16. " * 40
    text = _markdown(write_run(tmp_path, replace(MIXED, notes={"vllm": told.strip()})))
    assert f"vllm: {told.strip()}" in text.split("### Engines")[1]


def test_the_study_s_columns_come_first_and_hold_the_script_s_numbers(tmp_path: Path) -> None:
    """Latency, tokens, throughput and GPU memory of a row are those that the script implies."""
    text = _markdown(write_run(tmp_path, MIXED))
    assert "| Method | Latency (s) | Tokens | Throughput (token/s) | GPU Memory |" in text
    # CTranslate2 at 4: (0.015 + 19 * 0.009) * 1.06 = 0.19716 s for 80 tokens; 7 GiB + 4 * 0.25 GiB.
    row = _table(text, 4)["CTranslate2 int8_float16"]
    assert row == ["0.1972", "80", "405.8 ‖", "8.00 GiB", "0.01590", "9.540", "2.00 GiB", "4", ABSENT]


def test_only_the_highest_throughput_of_a_batch_size_is_bold(tmp_path: Path) -> None:
    """vLLM is the fastest in this script at both sizes: 20 / (0.012 + 19 * 0.006) = 158.7 tokens a second at 1."""
    text = _markdown(write_run(tmp_path, MIXED))
    for size, fastest in ((1, "**158.7** ‖"), (4, "**620.0** ‖")):
        bold = [(method, field) for method, row in _table(text, size).items() for field in row if "**" in field]
        assert bold == [("vLLM fp16", fastest)]


def test_a_cell_without_numbers_shows_why_in_every_column_of_the_study(tmp_path: Path) -> None:
    """Never blank, never zero."""
    run = write_run(tmp_path, MIXED)
    _cut(cell_path(run, VLLM, 4) / layout.EVENTS_FILE, 6)
    text = _markdown(run)
    assert _table(text, 4)["Transformers fp32"][:4] == ["oom_load"] * 4
    assert _table(text, 4)["ExLlama GPTQ"][:4] == ["not run"] * 4
    assert _table(text, 4)["vLLM fp16"][:4] == ["damaged: events.jsonl:6", *["damaged"] * 3]
    assert all(field for row in _table(text, 4).values() for field in row)
    assert "**Transformers fp32**, batch size 4: oom_load: CUDA out of memory" in text


def _cut(path: Path, number: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = lines[number - 1][:30]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_sequential_batching_is_marked_where_there_is_a_batch(tmp_path: Path) -> None:
    """A row that works one prompt after the other says so; with one prompt there is nothing to say."""
    text = _markdown(write_run(tmp_path, MIXED))
    assert f"{SEQUENTIAL.label} †" in _table(text, 4)
    assert SEQUENTIAL.label in _table(text, 1)
    assert text.count("† sequential") == 1


def test_a_run_without_a_gpu_says_so(tmp_path: Path) -> None:
    """No GPU memory is a fact, not a zero; the memory figure then shows the processes'."""
    run = write_run(tmp_path, replace(MIXED, device="cpu"))
    assert _table(_markdown(run), 1)["vLLM fp16"][3] == "none (CPU)"
    svg = figures.memory(load_run(run)).drawn().svg
    assert "Peak host memory" in svg
    assert "Peak GPU memory" in figures.memory(load_run(write_run(tmp_path / "cuda", MIXED))).drawn().svg


def test_random_weights_are_never_left_unsaid(tmp_path: Path) -> None:
    """Synthetic models stand as such in the report's head and in the figures."""
    synthetic = load_run(write_run(tmp_path / "a", MIXED))
    trained = load_run(
        write_run(tmp_path / "b", replace(MIXED, model=MIXED.model.model_copy(update={"synthetic": False})))
    )
    assert "random weights" in markdown(document(synthetic))
    assert "random weights" in figures.throughput(synthetic).drawn().svg
    assert "random weights" not in markdown(document(trained))
    assert "random weights" not in figures.throughput(trained).drawn().svg


def test_csv_has_one_line_for_each_planned_cell_with_raw_numbers(tmp_path: Path) -> None:
    """What a spreadsheet reads is unrounded, in the order of the plan, and empty only where there is no number."""
    view = load_run(write_run(tmp_path, MIXED))
    rows = list(csv.DictReader(csv_table(view).splitlines()))
    assert [row["cell"] for row in rows] == [planned.cell for planned in view.record.cells]
    for row, seen in zip(rows, view.rows, strict=True):
        assert row["outcome"] == seen.status
        if seen.result is None:
            assert row["output_throughput_tok_s"] == ""
            assert row["cause"]
        else:
            assert float(row["output_throughput_tok_s"]) == seen.result.metrics.output_throughput_tok_s
            assert float(row["batch_latency_mean_s"]) == seen.result.metrics.batch_latency_s.mean


# --- files ------------------------------------------------------------------------------------------------------------


def test_everything_is_written_into_the_run_and_nothing_else(tmp_path: Path) -> None:
    """The named files, whole, world-readable, no temporary left; the cells stay as they were."""
    run = write_run(tmp_path, MIXED)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    paths = write_report(run)
    after = {path for path in run.rglob("*") if path.is_file()}
    written = {paths.markdown, paths.page, *paths.tables, *paths.figures}
    assert after - set(before) == written
    assert {path.name for path in written} == {
        "report.md", "report.html", "table.csv", "throughput.svg", "throughput.png", "memory.svg", "memory.png",
    }  # fmt: skip
    assert all(path.stat().st_mode & 0o444 == 0o444 and path.stat().st_size for path in written)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_out_leaves_the_run_alone(tmp_path: Path) -> None:
    """--out takes the whole report elsewhere."""
    run = write_run(tmp_path, MIXED)
    before = sorted(run.rglob("*"))
    paths = write_report(run, tmp_path / "elsewhere" / "deep")
    assert paths.markdown.is_relative_to(tmp_path / "elsewhere")
    assert sorted(run.rglob("*")) == before


def test_a_target_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    """One line, no traceback."""
    run = write_run(tmp_path, MIXED)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput):
        write_report(run, tmp_path / "file")


@pytest.mark.parametrize(
    "methods", [(VLLM,), MIXED.methods, many_methods()], ids=["one method", "five methods", "twelve methods"]
)
@pytest.mark.slow
def test_figures_show_every_method_and_are_the_same_each_time(tmp_path: Path, methods: tuple[Method, ...]) -> None:
    """Equal input, equal bytes, in another process too; each method is named; the PNG is the SVG at twice its size."""
    run = write_run(tmp_path, Script(methods, batch_sizes=(1, 4, 16, 64)))
    view = load_run(run)
    for draw in (figures.throughput, figures.memory):
        figure = draw(view).drawn()
        assert figure.svg == draw(view).drawn().svg
        root = ET.fromstring(figure.svg)  # noqa: S314 - our own drawing
        words = {element.text for element in root.iter(f"{SVG}text")}
        assert {method.label for method in methods} <= words
        width, height, rows = _png(figure.png)
        assert (width, height) == (round(2 * float(root.attrib["width"])), round(2 * float(root.attrib["height"])))
        assert rows > height / 20  # the rows of an empty drawing are all alike
    other = subprocess.run(
        [sys.executable, "-m", "bench_core.report", str(run)],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"},
    )
    assert other.returncode == 0
    assert (run / "figures/throughput.svg").read_text(encoding="utf-8") == figures.throughput(view).drawn().svg
    assert (run / "figures/memory.svg").read_text(encoding="utf-8") == figures.memory(view).drawn().svg


def _png(content: bytes) -> tuple[int, int, int]:
    """Decodes an 8-bit RGBA PNG: width, height, number of different (filtered) rows."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    at, data, size = 8, b"", (0, 0)
    while at < len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", content[at + 8 + length : at + 12 + length])[0]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 6)
            size = (width, height)
        elif kind == b"IDAT":
            data += body
        at += 12 + length
    raw = zlib.decompress(data)
    width, height = size
    row = 1 + 4 * width
    assert len(raw) == height * row
    return width, height, len({raw[k : k + row] for k in range(0, len(raw), row)})


def test_a_failed_cell_is_a_cross_with_its_outcome_in_both_figures(tmp_path: Path) -> None:
    """No cell is silently missing from a figure."""
    view = load_run(write_run(tmp_path, MIXED))
    for figure in (figures.throughput(view).drawn(), figures.memory(view).drawn()):
        words = [element.text for element in ET.fromstring(figure.svg).iter(f"{SVG}text")]  # noqa: S314
        assert words.count("oom_load") == 1
        assert words.count("not run") == 2
    good = load_run(write_run(tmp_path / "good", Script((VLLM, CT2))))
    assert "Cells without a number" not in figures.throughput(good).drawn().svg


def test_a_line_is_not_drawn_across_a_failed_cell(tmp_path: Path) -> None:
    """Between two measured cells with a failed one between them, nothing was measured and no line runs."""
    whole = replace(VLLM, label="broken line")
    broken = replace(whole, dies={4: (Outcome.GENERATE_FAILED, "")})

    def pieces(method: Method, folder: str) -> int:
        view = load_run(write_run(tmp_path / folder, Script((method,), batch_sizes=(1, 2, 4, 8, 16))))
        root = ET.fromstring(figures.throughput(view).drawn().svg)  # noqa: S314
        paths = [
            path.attrib["d"]
            for group in root.iter(f"{SVG}g")
            if "mark-line" in group.attrib.get("class", "")
            for path in group.iter(f"{SVG}path")
        ]
        assert paths
        return sum(path.count("M") for path in paths)

    assert (pieces(whole, "whole"), pieces(broken, "broken")) == (1, 2)


def test_a_run_in_which_nothing_worked_still_has_a_report(tmp_path: Path) -> None:
    """No number anywhere is a result too."""
    dead = replace(VLLM, dies={1: (Outcome.LOAD_FAILED, "no such file"), 4: (Outcome.LOAD_FAILED, "no such file")})
    paths = write_report(write_run(tmp_path, Script((dead,))))
    assert "0 of 2 measured" in paths.markdown.read_text(encoding="utf-8")
    assert "No cell has a number" in paths.figures[0].read_text(encoding="utf-8")


# --- hostile names ----------------------------------------------------------------------------------------------------

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)> | `x` **b** [l](javascript:alert(3)) {{ 7*7 }} [red]'


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run in which every foreign text is hostile."""
    bad = replace(
        VLLM,
        label=EVIL,
        versions={EVIL: EVIL},
        facts={EVIL: EVIL},
        dies={4: (Outcome.CRASHED, EVIL)},
    )
    model = MIXED.model.model_copy(update={"name": EVIL, "architecture": EVIL, "dtype": EVIL})
    return write_run(tmp_path, replace(MIXED, methods=(bad, CT2), model=model))


class _Page(HTMLParser):
    """Collects tags, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.unbalanced = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced = True

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        else:
            self.words += data


def test_the_page_is_whole_self_contained_and_without_hostile_markup(hostile: Path) -> None:
    """Foreign text is text: it adds no tag and no attribute; nothing is loaded from elsewhere."""
    text = write_report(hostile).page.read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    page.close()
    assert not page.unbalanced
    assert page.open == []
    data, _runtime, program = page.scripts
    assert not {"<", ">", "&"} & set(data), "nothing in it ends the element or begins a comment"
    assert any(EVIL in method["label"] for method in json.loads(data)["methods"])
    assert EVIL not in program
    assert not {"img", "svg"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(value and value.startswith("#") for value in links)
    assert EVIL in page.words


def test_markdown_and_figures_hold_hostile_text_as_text(hostile: Path) -> None:
    """No tag and no table column of its own in Markdown; in an SVG no element of its own."""
    paths = write_report(hostile)
    text = paths.markdown.read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    kinds = {part.type for token in tokens for part in (token, *(token.children or ()))}
    assert kinds.isdisjoint({"html_block", "html_inline", "link_open", "s_open", "em_open"})
    shown = "".join(part.content for token in tokens for part in token.children or () if part.type.startswith("text"))
    assert shown.count(EVIL) > 5
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1
    for path in paths.figures:
        if path.suffix == ".svg":
            tags = {element.tag for element in ET.parse(path).iter()}  # noqa: S314
            assert tags <= {f"{SVG}{name}" for name in ("svg", "g", "rect", "path", "line", "text", "tspan")}


def test_two_methods_of_one_name_stay_two(tmp_path: Path) -> None:
    """Equal labels do not merge two methods into one line of a figure."""
    twin = replace(VLLM, variant="gptq", tpot_s=0.003)
    svg = figures.throughput(load_run(write_run(tmp_path, Script((VLLM, twin))))).drawn().svg
    words = {element.text for element in ET.fromstring(svg).iter(f"{SVG}text")}  # noqa: S314
    assert {"vLLM fp16 (vllm.fp16)", "vLLM fp16 (vllm.gptq)"} <= words


def test_the_terminal_s_table_shows_every_cell_and_no_markup(hostile: Path) -> None:
    """Rich's own markup in a name is text; an outcome stands with its cause."""
    console = Console(width=400, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    console.print(console_table(load_run(hostile)))
    shown = console.export_text()
    assert "[red]" in shown
    assert shown.count("CTranslate2") == 2
    assert "crashed: " in shown
    assert "405.8" in shown


# --- command line -----------------------------------------------------------------------------------------------------


def test_check_passes_on_its_own_report_and_names_an_edited_number(tmp_path: Path) -> None:
    """A published number that the events do not give is found, with its line."""
    run = write_run(tmp_path, MIXED)
    paths = write_report(run)
    runner = CliRunner()
    assert runner.invoke(app, [str(run), "--check"]).exit_code == 0
    text = paths.markdown.read_text(encoding="utf-8")
    assert text.count("**158.7**") == 1
    line = text[: text.index("**158.7**")].count("\n") + 1
    paths.markdown.write_text(text.replace("**158.7**", "**258.7**"), encoding="utf-8")
    result = runner.invoke(app, [str(run), "--check"])
    assert result.exit_code == 1
    assert f"report.md:{line}: has" in result.output
    assert "258.7" in result.output


@pytest.mark.parametrize("cut", [1, -1])
def test_check_finds_lines_added_or_lost_at_the_end(tmp_path: Path, cut: int) -> None:
    """A report that only begins well does not pass."""
    run = write_run(tmp_path, MIXED)
    path = write_report(run).markdown
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "more\n" if cut > 0 else text[:-5], encoding="utf-8")
    assert len(differences(run)) == 1


def test_check_finds_changed_events(tmp_path: Path) -> None:
    """The other way round: the report stands and the events change."""
    run = write_run(tmp_path, MIXED)
    write_report(run)
    events = cell_path(run, VLLM, 4) / layout.EVENTS_FILE
    events.write_text(
        events.read_text().replace('"index":3,', '"index":3,', 1).replace('"latency_s":0.1', '"latency_s":0.2')
    )
    assert [difference.split(":")[0].rsplit("/")[-1] for difference in differences(run)] == ["report.md", "table.csv"]


@pytest.mark.parametrize("arguments", [["missing"], ["missing", "--check"], ["run", "--check"]])
def test_bad_input_is_two_lines_and_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    """error, hint, no traceback, nothing written."""
    write_run(tmp_path, replace(MIXED, run_id="run"))
    result = subprocess.run(
        [sys.executable, "-m", "bench_core.report", *arguments],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert result.returncode == 2
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["error", "hint"]
    assert not (tmp_path / "missing").exists()


def test_help_is_quick() -> None:
    """--help does not import what draws: it would take a second."""
    code = "import sys; import bench_core.report.cli; sys.exit('vl_convert' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _section(text: str, heading: str) -> list[list[str]]:
    lines = text.split(f"### {heading}\n", 1)[1].split("\n### ", 1)[0].splitlines()
    return [[field.strip() for field in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]


def test_a_control_cell_shows_how_far_visits_differ(tmp_path: Path) -> None:
    """Throughput of each repeat and its distance from the first, with visit and card: 158.7 at first, then 1.05 and
    0.9 times as fast; jitter has the mean 0."""
    script = Script((VLLM, CT2), batch_sizes=(1,))
    run = write_run(tmp_path, script)
    assert "Control cell" not in _markdown(run)
    assert "Visits" not in _markdown(run)
    visit_again(run, script, VLLM, 1, faster=1.05)
    visit_again(run, script, VLLM, 1, faster=0.9)
    visit_again(run, script, VLLM, 1, faster=1.0, dies=True)
    text = _markdown(run)
    rows = _section(text, "Control cell")
    assert [row[2:] for row in rows] == [
        ["1", "1", "GPU-00000000", "158.7", "+0.00"],
        ["2", "2", "GPU-00000002", "166.7", "+5.00"],
        ["3", "3", "GPU-00000003", "142.9", "-10.00"],
        ["4", "4", "GPU-00000004", "stopped", ABSENT],
    ]
    visits = _section(text, "Visits")
    assert [(row[0], row[2], row[3], row[6]) for row in visits] == [
        ("1", "GPU-00000000", "580.95.05", "2"),
        ("2", "GPU-00000002", "590.1", "1"),
        ("3", "GPU-00000003", "590.1", "1"),
        ("4", "GPU-00000004", "590.1", "1"),
    ]
    assert "repeat 4" in text.split("## Cells without numbers")[1]


def test_tables_of_several_visits_say_which_method_is_of_which(tmp_path: Path) -> None:
    script = Script((VLLM, CT2), batch_sizes=(1, 4))
    run = write_run(tmp_path, script)
    visit_again(run, script, VLLM, 1, faster=1.05)
    assert "Measured at" not in _markdown(run), "the tables show the first visit alone"
    path = run / layout.RUN_FILE
    record = json.loads(path.read_text())
    first, second = record["visits"]
    moved = layout.cell_id(CT2.image, CT2.variant, "b1")
    first["cells"].remove(moved)
    second["cells"].append(moved)
    path.write_text(json.dumps(record))
    text = _markdown(run)
    said = (
        "Measured at different visits, and what hosts differ by is in no interval (the control cell gave so much "
        "there): visit 1, 158.7 token/s: vLLM fp16; visit 2, 166.7 token/s: CTranslate2 int8_float16."
    )
    assert said in text.split("## Batch size 1\n")[1].split("## Batch size 4\n")[0]
    assert said not in text.split("## Batch size 4\n")[1]
    glance = text.split("## At a glance\n")[1].split("## Batch size 1\n")[0]
    assert "Measured at 2 visits" in glance
    assert "the control cell gave 158.7, 166.7 token/s there" in glance


def test_repeats_stand_in_no_other_table_and_in_no_figure(tmp_path: Path) -> None:
    """A faster repeat changes no row of the grid, no bold print and no line of a figure; the CSV has it as a row."""
    script = Script((VLLM, CT2), batch_sizes=(1, 4))
    run = write_run(tmp_path, script)
    before, drawn = _markdown(run), figures.throughput(load_run(run)).drawn().svg
    visit_again(run, script, CT2, 1, faster=10.0)
    after = _markdown(run)
    for size in (1, 4):
        assert _table(after, size) == _table(before, size)
    assert _section(after, "Times") == _section(before, "Times")
    assert _section(after, "Memory") == _section(before, "Memory")
    assert figures.throughput(load_run(run)).drawn().svg == drawn
    lines = list(csv.DictReader(csv_table(load_run(run)).splitlines()))
    assert [(line["cell"], line["repeat"], line["visit"]) for line in lines if line["image"] == CT2.image] == [
        ("ctranslate2.int8_float16.b1", "1", "1"),
        ("ctranslate2.int8_float16.b4", "1", "1"),
        ("ctranslate2.int8_float16.b1.r2", "2", "2"),
    ]
    assert lines[-1]["gpu_uuid"].startswith("GPU-00000002")


def test_a_cell_that_was_measured_again_counts_for_the_later_visit(tmp_path: Path) -> None:
    """A visit names the cells that it was to measure; what it did not reach belongs to no visit."""
    script = Script((VLLM, Method("exllama", "gptq", "ExLlama GPTQ", unreached=(1,))), batch_sizes=(1,))
    run = write_run(tmp_path, script)
    visit_again(run, script, VLLM, 1, faster=1.0)
    view = load_run(run)
    assert [view.visit_of(row) for row in view.rows] == [1, None, 2]
