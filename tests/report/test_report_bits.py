"""Every row says what a weight takes, and a title that names far fewer bits says so."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import VLLM, Method, Script, cell_path, fields, write_run

from bench_core.contract.models.stored_bits import StoredBits, bits_in_title, stored_bits, title_with_bits
from bench_core.contract.models.stored_weights import StoredWeights
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.run import RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.report.document import document
from bench_core.report.write.cell_table import csv_table
from bench_core.report.write.console import console_table
from bench_core.report.write.markdown import markdown
from bench_core.runs.load import load_run

Q2 = Method("llama", "q2_k", "llama.cpp 2-bit (Q2_K)")
SCRIPT = Script((Q2, VLLM), batch_sizes=(1,), batches=8)
# SmolLM2-135M's file of that name: Q4_0, Q8_0 and Q3_K.
SMOLLM2 = StoredBits(per_weight=86_433_088 * 8 / 134_515_008, source="artifact")


def _artifact(run: Path, method: Method, bits: float) -> None:
    """Makes a cell's weights an artifact's, of so many bits."""
    path = cell_path(run, method, 1) / layout.SPEC_FILE
    spec = CellSpec.read(path)
    total = round(spec.model.parameters * bits / 8)
    changes = {"artifact": "gguf-q2_k", "weights": StoredWeights(total_bytes=total)}
    path.write_text(spec.model_copy(update=changes).to_json(), encoding="utf-8")


def _main(run: Path) -> dict[str, dict[str, str]]:
    (sheet,) = document(load_run(run)).results
    return {row["Method"]: row for row in fields(sheet)}


def test_a_row_says_the_bits_of_its_weights_and_the_title_that_they_are_more(tmp_path: Path) -> None:
    run = write_run(tmp_path, SCRIPT)
    _artifact(run, Q2, 5.14)
    rows = _main(run)
    assert rows["llama.cpp 2-bit (Q2_K), 5.1 bits stored"]["Bits per weight"] == "5.14"
    view = load_run(run)
    assert "### Quality" not in markdown(document(view))
    assert "llama.cpp 2-bit (Q2_K) |" not in markdown(document(view)), "one title in every table"
    shown = {str(cell) for column in console_table(view).columns for cell in column.cells}
    assert "llama.cpp 2-bit (Q2_K), 5.1 bits stored" in shown
    lines = {line["variant"]: line for line in csv.DictReader(io.StringIO(csv_table(view)))}
    assert float(lines["q2_k"]["bits_per_weight"]) == pytest.approx(5.14, rel=1e-6)
    assert lines["q2_k"]["bits_source"] == "artifact"


def test_a_little_more_than_the_name_needs_no_word(tmp_path: Path) -> None:
    run = write_run(tmp_path, SCRIPT)
    _artifact(run, Q2, 2.49)
    assert _main(run)["llama.cpp 2-bit (Q2_K)"]["Bits per weight"] == "2.49"


def test_an_engine_that_quantises_while_loading_tells_what_it_holds_and_failed_rows_keep_the_title(
    tmp_path: Path,
) -> None:
    parameters = SCRIPT.model.parameters
    method = Method(
        "bnb", "nf4", "Engine 4-bit NF4", facts={"weights_bytes": str(parameters), "dtype": "float32"},
        dies={4: (Outcome.OOM_LOAD, "no memory")},
    )  # fmt: skip
    run = write_run(tmp_path, Script((method, VLLM), batch_sizes=(1, 4)))
    for sheet in document(load_run(run)).results:
        row = {row["Method"]: row for row in fields(sheet)}["Engine 4-bit NF4, 8.0 bits held"]
        assert row["Bits per weight"] == "8.00"


def test_the_bits_that_a_variant_declares_go_before_its_title(tmp_path: Path) -> None:
    run = write_run(tmp_path, SCRIPT)
    _artifact(run, Q2, 5.14)
    record = RunRecord.read(run / layout.RUN_FILE)
    cells = [cell.model_copy(update={"bits": 5.0 if cell.variant == "q2_k" else None}) for cell in record.cells]
    (run / layout.RUN_FILE).write_text(record.model_copy(update={"cells": tuple(cells)}).to_json(), encoding="utf-8")
    assert "llama.cpp 2-bit (Q2_K)" in _main(run)


@pytest.mark.parametrize(
    ("title", "bits"),
    [
        ("llama.cpp 4-bit (Q4_K_M)", 4.0),
        ("ExLlamaV2 4.0 bits (EXL2)", 4.0),
        ("vLLM GPTQ 4-bit", 4.0),
        ("Transformers bfloat16", None),
        ("CTranslate2 int8_float16", None),
        ("Engine 0-bit", None),
        ("Engine v1.2-bit", None),
    ],
)
def test_titles_of_old_records_name_bits_or_do_not(title: str, bits: float | None) -> None:
    assert bits_in_title(title) == bits


def test_the_name_is_exceeded_from_a_quarter_on() -> None:
    assert title_with_bits("2-bit", 2, SMOLLM2) == "2-bit, 5.1 bits stored"
    assert title_with_bits("4-bit", 4, StoredBits(per_weight=4.99, source="artifact")) == "4-bit"
    assert title_with_bits("4-bit", 4, StoredBits(per_weight=5.0, source="artifact")) == "4-bit, 5.0 bits stored"
    assert title_with_bits("4-bit", None, SMOLLM2) == title_with_bits("4-bit", 4, None) == "4-bit"


def test_what_a_model_s_own_file_stores_is_not_what_an_engine_computes_with(tmp_path: Path) -> None:
    """A checkpoint in float16, read as float32; nothing is said where the engine told nothing."""
    run = write_run(tmp_path, replace(SCRIPT, methods=(VLLM,)))
    spec = CellSpec.read(cell_path(run, VLLM, 1) / layout.SPEC_FILE)
    assert spec.artifact == "hf"
    assert stored_bits(spec, {"dtype": "float32"}) == StoredBits(per_weight=32, source="dtype")
    assert stored_bits(spec, {}) is None
    assert json.loads(spec.to_json())["bits"] is None
