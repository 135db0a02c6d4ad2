"""Several runs on one page: which share a ranking, and what is said of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from report_runs import CT2, GPU, SEQUENTIAL, VLLM, Method, Script, measured, read_log, write_log, write_run
from serving_runs import FAST, LoadScript, write_loaded
from test_report_written import EVIL, _Page
from typer.testing import CliRunner

from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.run import RunRecord
from bench_core.report.cli import app
from bench_core.report.conditions import OF_RUNS
from bench_core.report.decide.option import Option
from bench_core.report.document import Document
from bench_core.report.format import ABSENT
from bench_core.report.page.data import Part, several_data
from bench_core.report.together.document import document_of
from bench_core.report.together.group import Group, NamedRun, groups_of
from bench_core.report.together.write import together
from bench_core.runs.load import load_run

# Six batches, which carry an interval.
BASE = Script((VLLM, CT2), batch_sizes=(1, 4), batches=6)


def version(method: Method, number: str) -> Method:
    return replace(method, versions={"python": "3.12.11", method.image: number, "torch": "2.9.0"})


def written(root: Path, **runs: Script) -> list[Path]:
    return [write_run(root, replace(script, run_id=name)) for name, script in runs.items()]


def changed(run: Path, change: Callable[[RunRecord], dict[str, object]]) -> Path:
    """The same run with another run.json."""
    path = run / layout.RUN_FILE
    record = RunRecord.read(path)
    path.write_text(record.model_copy(update=change(record)).to_json())
    return run


def read(*folders: Path) -> tuple[Document, tuple[Group, ...]]:
    runs = [NamedRun(folder.name, load_run(folder)) for folder in folders]
    groups = groups_of(runs)
    return document_of(runs, groups), groups


def at(group: Group, point: str) -> list[Option]:
    return [option for option in group.options if option.point == point]


def test_equal_runs_share_a_ranking_and_the_run_is_in_every_name(tmp_path: Path) -> None:
    faster = replace(VLLM, ttft_s=VLLM.ttft_s / 2, tpot_s=VLLM.tpot_s / 2)
    document, groups = read(*written(tmp_path, old=BASE, new=replace(BASE, methods=(faster, CT2))))
    (group,) = groups
    labels = {"vLLM fp16 · old", "vLLM fp16 · new", "CTranslate2 int8_float16 · old", "CTranslate2 int8_float16 · new"}
    assert {option.method for option in at(group, "b1")} == labels
    table = document.glance[0]
    assert table.heading == "Batch size 1"
    assert [(row[0].text, row[1].text) for row in table.rows][:2] == [
        ("1", "vLLM fp16 · new"),
        ("2", "vLLM fp16 · old"),
    ]
    assert table.rows[0][2].strong
    assert not table.rows[1][2].strong
    assert "vLLM fp16 · new is the fastest" in " ".join(document.verdict)
    assert not [sentence for sentence in document.verdict if "rankings" in sentence]


def test_the_engine_s_version_stands_beside_the_run_where_it_differs(tmp_path: Path) -> None:
    old, new = replace(BASE, methods=(version(VLLM, "0.10.1"), version(CT2, "4.6"))), None
    new = replace(BASE, methods=(version(VLLM, "0.11.0"), version(CT2, "4.6")))
    document, (group,) = read(*written(tmp_path, old=old, new=new))
    assert {option.method for option in at(group, "b4")} == {
        "vLLM fp16 · old (vllm 0.10.1)", "vLLM fp16 · new (vllm 0.11.0)",
        "CTranslate2 int8_float16 · old", "CTranslate2 int8_float16 · new",
    }  # fmt: skip
    equal, differing = document.verdict[:2]
    assert "Versions of ctranslate2: ctranslate2 4.6" in equal
    assert differing == "Different: Versions of vllm: vllm 0.10.1 (old), vllm 0.11.0 (new)."


# What each of the conditions is in a run's record, so that a run can be made to differ in one alone.
DIFFERENT: dict[str, Callable[[RunRecord], dict[str, object]]] = {
    "gpu": lambda _: {"gpus": (GPU.model_copy(update={"name": "NVIDIA A100-SXM4-80GB"}),)},
    "model": lambda record: {"model": record.model.model_copy(update={"digest": "77" * 32})},
    "workload": lambda record: {"workload": record.workload.model_copy(update={"digest": "66" * 32})},
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_runs_that_differ_in_what_decides_are_never_in_one_ranking(tmp_path: Path, name: str) -> None:
    one, other = written(tmp_path, one=BASE, other=BASE)
    _refit(other, DIFFERENT[name])
    document, groups = read(one, other)
    assert [[run.name for run in group.runs] for group in groups] == [["one"], ["other"]]
    for table in document.glance:
        assert len(table.rows) == 2, "two methods of one run"
    assert [table.heading.split(": ")[1].split(" on ")[0] for table in document.glance] == ["one"] * 2 + ["other"] * 2
    (why,) = [sentence for sentence in document.verdict if "rankings" in sentence]
    word = name.upper() if name == "gpu" else name
    assert why.startswith(f"2 rankings, and no common one: the runs differ in {word},")
    row = next(row for row in document.beside[0].rows if row[0].text.lower() == name)
    assert row[1].text == "differs"
    told = zip(groups, document.verdicts, strict=True)
    data = several_data("t", [Part(g.options, {o.run: g.run_of(o).view for o in g.options}, at) for g, at in told])
    assert [len(part["cells"]) for part in data["parts"]] == [4, 4]
    for part, run, elsewhere in zip(data["parts"], ("one", "other"), ("other", "one"), strict=True):
        for point in part["points"]:
            (said,) = [text for text in point["verdict"] if f" At {point['words']}, " in text]
            assert said.startswith(f"{run} on ")
            assert f": {elsewhere} on " not in said


def _refit(run: Path, change: Callable[[RunRecord], dict[str, object]]) -> None:
    """Changes the record and what the cells repeat of it."""
    changed(run, change)
    record = RunRecord.read(run / layout.RUN_FILE)
    for path in run.glob("cells/*/spec.json"):
        spec = json.loads(path.read_text())
        spec |= {
            "model": json.loads(record.model.model_dump_json()),
            "workload": json.loads(record.workload.model_dump_json()),
        }
        path.write_text(json.dumps(spec))


def test_another_length_is_another_ranking(tmp_path: Path) -> None:
    document, groups = read(*written(tmp_path, short=BASE, long=replace(BASE, new_tokens=40)))
    assert len(groups) == 2
    assert any("differ in lengths" in sentence for sentence in document.verdict)


def test_a_cpu_run_and_a_gpu_run_are_apart(tmp_path: Path) -> None:
    document, groups = read(*written(tmp_path, gpu=BASE, cpu=replace(BASE, device="cpu")))
    assert len(groups) == 2
    assert any("differ in GPU and CPU" in sentence for sentence in document.verdict)


def test_every_condition_of_comparing_is_told_of_every_run(tmp_path: Path) -> None:
    document, _ = read(*written(tmp_path, gpu=BASE, cpu=replace(BASE, device="cpu")))
    titles = [row[0].text.lower() for row in document.beside[0].rows]
    assert titles[: len(OF_RUNS)] == list(OF_RUNS)
    assert {"driver", "versions of vllm", "suite", "host", "date"} <= set(titles)


def test_offline_and_serving_runs_stand_on_one_page_at_points_of_their_own(tmp_path: Path) -> None:
    """The same run's record with cells of the other kind: points never hold both."""
    document, groups = read(write_run(tmp_path, replace(BASE, run_id="offline")), write_loaded(tmp_path))
    assert [sheet.heading.split(":")[0] for sheet in document.glance] == [
        "Batch size 1", "Batch size 4", "Concurrency 4", "20 requests/s",
    ]  # fmt: skip
    assert {option.batch_size is None for option in at(groups[1], "c4")} == {True}


def test_cells_under_another_schedule_are_another_ranking_of_the_same_load_point(tmp_path: Path) -> None:
    script = LoadScript(engines=(FAST,), loads=("c4",))
    old, new = (write_loaded(tmp_path, replace(script, run_id=name)) for name in ("old", "new"))
    both = read(old, new)[0].glance
    assert [(sheet.heading, len(sheet.rows)) for sheet in both] == [("Concurrency 4", 2)]
    path = layout.cell_folder(new, "vllm.fp16.c4") / layout.SPEC_FILE
    spec = json.loads(path.read_text())
    spec["serve"]["protocol"]["arrival_seed"] = 7
    path.write_text(json.dumps(spec))
    document, (group,) = read(old, new)
    assert [(sheet.heading, len(sheet.rows)) for sheet in document.glance] == [
        ("Concurrency 4 (schedule seed 1)", 1), ("Concurrency 4 (schedule seed 7)", 1),
    ]  # fmt: skip
    assert [option.point for option in group.options] == ["c4", "2:c4"]


def test_batches_without_an_interval_are_ranked_by_those_that_all_runs_measured(tmp_path: Path) -> None:
    """One run stopped after two batches, of which the second is slow for everybody: alone it looks slower."""
    script = replace(BASE, methods=(VLLM,), batch_sizes=(1,), batches=8)
    long, short = written(tmp_path, long=script, short=replace(script, batches=2))
    for run, batches in ((long, 8), (short, 2)):
        cell = layout.cell_folder(run, "vllm.fp16.b1")
        log = read_log(cell)
        lines = measured(log)
        assert len(lines) == batches
        for index, line in enumerate(lines):
            line["latency_s"] *= 1.5 if index == 1 else 1.0
        write_log(cell, log)
    _, (group,) = read(long, short)
    own = {option.run: option for option in at(group, "b1")}
    assert own["short"].throughput_tok_s is not None
    assert own["short"].throughput_tok_s.low is None
    assert own["long"].throughput_tok_s is not None
    assert own["short"].compared_tok_s == pytest.approx(own["long"].compared_tok_s)
    assert own["short"].throughput_tok_s.value < own["long"].throughput_tok_s.value


def test_cells_without_numbers_are_named_with_their_run(tmp_path: Path) -> None:
    dying = replace(VLLM, dies={4: (Outcome.OOM_KV, "no room")})
    document, _ = read(*written(tmp_path, well=BASE, ill=replace(BASE, methods=(dying, CT2))))
    assert [(failure.method, failure.status) for failure in document.failures] == [("vLLM fp16 · ill", "oom_kv")]
    last = document.glance[1].rows[-1]
    assert (last[0].text, last[1].text) == (ABSENT, "vLLM fp16 · ill")
    assert "oom_kv: no room" in last[-1].text


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, replace(BASE, run_id="same")) for name in ("a", "b")]
    out = tmp_path / "page.md"
    assert CliRunner().invoke(app, [*map(str, folders), "--out", str(out)]).exit_code == 0
    text = out.read_text()
    assert all(
        f"vLLM fp16 · {folder.as_posix()}".replace("_", "") in text.replace("\\_", "").replace("_", "")
        for folder in folders
    )


def test_html_and_markdown_hold_hostile_names_as_text(tmp_path: Path) -> None:
    bad = replace(VLLM, label=EVIL, versions={EVIL: EVIL}, facts={EVIL: EVIL})
    one, other = written(tmp_path, one=replace(BASE, methods=(bad,)), other=replace(BASE, methods=(bad, SEQUENTIAL)))
    named = [(EVIL, one), ("b|*c*", other)]
    page = _Page()
    page.feed(together(named, runtime=""))
    page.close()
    assert not page.unbalanced
    assert not {"<", ">", "&"} & set(page.scripts[0])
    assert not {"img", "svg"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert EVIL in page.words
    text = together(named, as_markdown=True)
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    kinds = {part.type for token in tokens for part in (token, *(token.children or ()))}
    assert kinds.isdisjoint({"html_block", "html_inline", "link_open", "s_open", "em_open"})
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1


def test_the_published_runs_of_two_gpus_are_never_ranked_together() -> None:
    published = Path(__file__).parents[2] / "results" / "published"
    document, groups = read(published / "2026-11-23-cpu-smollm2-b", published / "h200-repeats")
    assert len(groups) == 2
    assert all(
        table.heading.split(" on ")[1] in ("Intel(R) Xeon(R) Processor", "NVIDIA H200") for table in document.glance
    )


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["one", "other"], "several runs make one page"),
        (["one", "other", "--out", "page"], "one file is made"),
        (["one", "one", "--out", "page.html"], "given twice"),
        (["one", "other", "--check"], "one page and nothing else"),
        (["one", "other", "--choose", "memory=1GiB"], "one page and nothing else"),
        (["one", "--out", "page.html"], "of one run it is a folder"),
        (["one", "missing", "--out", "page.html"], "not a folder"),
    ],
)
def test_what_several_runs_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], cause: str
) -> None:
    written(tmp_path, one=BASE)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert cause in result.output
    assert not list(tmp_path.glob("page*"))
