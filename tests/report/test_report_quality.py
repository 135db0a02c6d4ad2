"""Quality in the report: who is compared with whom, who is not ranked, and where that shows."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import FP32, MODEL, VLLM, Method, Script, write_run
from rich.console import Console

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.quality import QualityBounds
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.run import RunRecord
from bench_core.report.document import document
from bench_core.report.figures import scaling as figures
from bench_core.report.write.cell_table import csv_table
from bench_core.report.write.console import console_table
from bench_core.report.write.embed import blocks, embed, sheet_of
from bench_core.report.write.markdown import markdown
from bench_core.runs.load import load_run
from bench_core.runs.view import RunView

TRAINED = MODEL.model_copy(update={"synthetic": False})
REFERENCE = replace(FP32, dies={}, reference=0, nll_nat_per_token=2.0)
SOUND = replace(VLLM, nll_nat_per_token=2.1, differs_from=10, reference=3)
WORSE = Method("llama-cpp-python", "q2_k", "llama.cpp q2_k", tpot_s=0.001, nll_nat_per_token=2.9, differs_from=1)


def _view(root: Path, *methods: Method, **changes: object) -> RunView:
    settings: dict[str, object] = {"model": TRAINED, "batch_sizes": (4, 8), **changes}
    return load_run(write_run(root, Script(methods, **settings)))  # type: ignore[arg-type]


def _sheet(view: RunView) -> dict[tuple[str, str], dict[str, str]]:
    """(Method, batch size) to a line of the table of quality."""
    (sheet,) = [sheet for sheet in document(view).details if sheet.heading == "Quality"]
    names = [name for name, _ in sheet.columns]
    lines = [dict(zip(names, (entry.text for entry in row), strict=True)) for row in sheet.rows]
    return {(line["Method"], line["Batch size"]): line for line in lines}


def test_the_sheet_holds_what_the_script_implies(tmp_path: Path) -> None:
    """20 tokens that differ from the tenth place on: prefix 50 %. NLL of 2.1 beside 2.0, both texts alike: 0.1, no
    scatter. One score serves both batch sizes."""
    sheet = _sheet(_view(tmp_path, REFERENCE, SOUND, WORSE))
    for size, rows in (("4", 16), ("8", 32)):
        line = sheet["vLLM fp16", size]
        assert line["NLL (nat/token)"] == "2.1000"
        assert line["Difference to the reference"] == "+0.1000 ± 0.0000"
        assert line["Perplexity"] == "8.166"
        assert line["Rows identical"] == f"0 of {rows}"
        assert line["Same first token"] == f"{rows} of {rows}"
        assert (line["Common prefix, mean"], line["Equal tokens"]) == ("50.0%", "50.0%")
        assert line["Compared with"] == f"Transformers fp32 at {size}"
        assert line["Verdict"] == "within the bounds"
        assert sheet["Transformers fp32", size]["Verdict"] == "reference"


def test_a_method_past_the_bound_keeps_its_numbers_and_loses_its_rank(tmp_path: Path) -> None:
    """The fastest method is 0.9 nat worse: no bold print, no point in a figure, a mark, and the reason everywhere."""
    view = _view(tmp_path, REFERENCE, SOUND, WORSE)
    text = markdown(document(view))
    reason = "NLL is 0.900 nat/token above the reference's, 0.5 are allowed"
    (row,) = [line for line in text.split("## Batch size 4\n")[1].splitlines() if line.startswith("| llama.cpp q2_k")][
        :1
    ]
    assert "‡" in row
    assert "**" not in row
    assert "| **" in next(line for line in text.splitlines() if line.startswith("| vLLM fp16"))
    assert "not ranked; see Quality" in text
    assert _sheet(view)["llama.cpp q2_k", "8"]["Verdict"] == f"not ranked: {reason}"
    drawn = figures.throughput(view).drawn().svg
    assert "vLLM fp16" in drawn
    assert "llama.cpp q2_k" not in drawn
    console = Console(width=250, record=True)
    console.print(console_table(view))
    assert reason in console.export_text()
    lines = {line["cell"]: line for line in csv.DictReader(io.StringIO(csv_table(view)))}
    assert reason in lines["llama-cpp-python.q2_k.b4"]["quality_verdict"]
    assert lines["llama-cpp-python.q2_k.b4"]["outcome"] == "ok"
    assert float(lines["llama-cpp-python.q2_k.b4"]["nll_difference_nat_per_token"]) == pytest.approx(0.9)


def test_the_bound_of_the_run_decides_and_is_printed(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Script((REFERENCE, WORSE), model=TRAINED))
    path = folder / "run.json"
    record = RunRecord.read(path).model_copy(update={"quality": QualityBounds(max_nll_increase=1.5)})
    path.write_text(record.to_json(), encoding="utf-8")
    view = load_run(folder)
    assert not any(view.shortfall(row) for row in view.rows)
    assert "an NLL more than 1.5 nat/token" in markdown(document(view))


def test_outputs_of_something_else_are_not_ranked_unless_weights_are_random(tmp_path: Path) -> None:
    """No row begins as the reference's does, and the engine tells no probabilities."""
    other = replace(WORSE, nll_nat_per_token=None, differs_from=0)
    trained = _view(tmp_path / "trained", REFERENCE, other)
    assert "0 of 16 rows" in trained.shortfall(trained.rows[2])
    random = _view(tmp_path / "random", REFERENCE, other, model=MODEL)
    assert not random.shortfall(random.rows[2])
    assert _sheet(random)["llama.cpp q2_k", "4"]["Same first token"] == "0 of 16"
    assert "agreement says nothing" in markdown(document(random))


def test_where_the_reference_did_not_fit_the_next_in_the_declared_order_stands_in(tmp_path: Path) -> None:
    """At 8 the reference is out of memory: the variant of the lowest declared place serves, not the first planned."""
    dead = replace(REFERENCE, dies={8: (Outcome.OOM_KV, "out of memory")})
    later = replace(SOUND, image="a", label="A", reference=4)
    view = _view(tmp_path, dead, later, SOUND, WORSE)
    sheet = _sheet(view)
    assert sheet["llama.cpp q2_k", "4"]["Compared with"] == "Transformers fp32 at 4"
    assert sheet["llama.cpp q2_k", "8"]["Compared with"] == "vLLM fp16 at 8"
    assert sheet["A", "8"]["Compared with"] == "vLLM fp16 at 8"
    assert "at batch size 8, vLLM fp16 stands in for the reference" in markdown(document(view))


def test_a_batch_size_without_any_stand_in_borrows_the_reference_s_outputs_for_the_same_prompts(tmp_path: Path) -> None:
    """Batches of 8 begin with the 16 prompts that 4 batches of 4 had: 16 rows are compared of 32."""
    dead = replace(REFERENCE, dies={8: (Outcome.OOM_KV, "out of memory")})
    sheet = _sheet(_view(tmp_path, dead, WORSE))
    assert sheet["llama.cpp q2_k", "8"]["Compared with"] == "Transformers fp32 at 4"
    assert sheet["llama.cpp q2_k", "8"]["Same first token"] == "16 of 16"


def test_a_run_without_the_reference_says_what_stands_in(tmp_path: Path) -> None:
    text = markdown(document(_view(tmp_path, SOUND, WORSE)))
    assert "the variant declared as the reference is not part of this run" in text
    assert "at batch size 4, vLLM fp16 stands in for the reference" in text


def test_likelihoods_without_any_reference_are_shown_and_judge_nobody(tmp_path: Path) -> None:
    view = _view(tmp_path, replace(SOUND, reference=None), WORSE)
    sheet = _sheet(view)
    assert sheet["llama.cpp q2_k", "4"]["NLL (nat/token)"] == "2.9000"
    assert sheet["llama.cpp q2_k", "4"]["Verdict"] == "not judged"
    assert not any(view.shortfall(row) for row in view.rows)


def test_a_reference_far_above_another_method_is_doubted_and_judges_nobody(tmp_path: Path) -> None:
    """A head filled at random: Transformers 6.3, the sound engine 1.73. The sound one is ranked, the reference not."""
    filled = replace(REFERENCE, nll_nat_per_token=6.3)
    sound = replace(WORSE, nll_nat_per_token=1.73, differs_from=0)
    view = _view(tmp_path, filled, sound)
    sheet = _sheet(view)
    reason = "llama.cpp q2_k's NLL is 4.570 nat/token below its own, 0.5 are allowed"
    for size in ("4", "8"):
        assert sheet["Transformers fp32", size]["Verdict"] == f"not ranked: as a reference it is doubted: {reason}"
        assert sheet["llama.cpp q2_k", size]["Verdict"] == "not judged"
    assert [row.planned.image for row in view.grid if not view.shortfall(row)] == [WORSE.image] * 2
    text = markdown(document(view))
    assert f"Transformers fp32 is doubted and judges nobody: {reason}" in text
    assert "no reference is left" in text
    assert "| **" in next(line for line in text.splitlines() if line.startswith("| llama.cpp q2_k"))


def test_where_the_reference_is_doubted_an_undoubted_stand_in_judges(tmp_path: Path) -> None:
    """Another variant of the damaged engine would stand in first, and is doubted too; one that is far above the
    stand-in is not ranked as ever."""
    filled = replace(REFERENCE, nll_nat_per_token=6.3)
    half = replace(REFERENCE, variant="fp16", label="Transformers fp16", reference=1, nll_nat_per_token=6.1)
    sound = replace(SOUND, nll_nat_per_token=1.73)
    near = replace(WORSE, variant="q8_0", label="llama.cpp q8_0", nll_nat_per_token=1.75)
    far = replace(WORSE, nll_nat_per_token=2.9)
    view = _view(tmp_path, filled, half, sound, near, far)
    sheet = _sheet(view)
    assert "doubted" in sheet["Transformers fp32", "4"]["Verdict"]
    assert "doubted" in sheet["Transformers fp16", "4"]["Verdict"]
    assert sheet["llama.cpp q8_0", "4"]["Verdict"] == "within the bounds"
    assert sheet["llama.cpp q8_0", "4"]["Compared with"] == "vLLM fp16 at 4"
    assert "not ranked: NLL is 1.170 nat/token above" in sheet["llama.cpp q2_k", "4"]["Verdict"]
    assert "vLLM fp16 stands in for the reference" in markdown(document(view))


@pytest.mark.parametrize(("below", "doubted"), [(0.49, False), (0.51, True)])
def test_the_bound_of_doubt_is_that_of_rank(below: float, doubted: bool, tmp_path: Path) -> None:
    view = _view(tmp_path, REFERENCE, replace(WORSE, nll_nat_per_token=2.0 - below))
    assert bool(view.shortfall(view.rows[0])) == doubted
    assert not view.shortfall(view.rows[2])


def test_a_scripted_engine_has_no_quality(tmp_path: Path) -> None:
    view = _view(tmp_path, REFERENCE, replace(WORSE, ranked=False))
    assert {method for method, _ in _sheet(view)} == {"Transformers fp32"}


def test_a_run_in_which_nothing_can_be_compared_reads_as_it_always_did(tmp_path: Path) -> None:
    view = _view(tmp_path, replace(REFERENCE, reference=None, nll_nat_per_token=None))
    assert view.quality is None
    assert "Quality" not in markdown(document(view))
    assert "quality" not in csv_table(view)


def test_a_page_gets_the_run_s_table_and_keeps_the_rest(tmp_path: Path) -> None:
    """Embedded twice it is the same page; a page without a block, or a table that the run lacks, is refused."""
    folder = write_run(tmp_path, Script((REFERENCE, SOUND), model=TRAINED))
    page = tmp_path / "page.md"
    page.write_text("# A\n\n<!-- sheet: none Quality -->\nold\n<!-- /sheet -->\n\nB\n", encoding="utf-8")
    embed(page, folder, "results/x")
    text = page.read_text(encoding="utf-8")
    (block,) = blocks(text)
    assert (block.run, block.heading) == ("results/x", "Quality")
    assert block.body == sheet_of(folder, "Quality") + "\n"
    assert "| vLLM fp16 | 1 |" in block.body
    assert text.startswith("# A\n\n<!-- sheet: results/x")
    assert text.endswith("<!-- /sheet -->\n\nB\n")
    embed(page, folder, "results/x")
    assert page.read_text(encoding="utf-8") == text
    with pytest.raises(BadInput, match="no table 'Control'"):
        sheet_of(folder, "Control")
    page.write_text("# A\n", encoding="utf-8")
    with pytest.raises(BadInput, match="no block"):
        embed(page, folder, "results/x")


def test_a_page_of_several_runs_gets_this_one_s_tables_only(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Script((REFERENCE, SOUND), model=TRAINED))
    page = tmp_path / "page.md"
    other = "<!-- sheet: results/y Peak rates -->\nof another\n<!-- /sheet -->\n"
    page.write_text(f"{other}\n<!-- sheet: results/x Quality -->\n<!-- /sheet -->\n", encoding="utf-8")
    embed(page, folder, "results/x")
    text = page.read_text(encoding="utf-8")
    assert text.startswith(other)
    assert "| vLLM fp16 | 1 |" in text
    with pytest.raises(BadInput, match=r"shows results/x, results/y"):
        embed(page, folder, "results/z")
    assert page.read_text(encoding="utf-8") == text
