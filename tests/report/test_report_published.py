"""Published figures beside a run's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_runs import Method, Script, write_run

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.report.write.files import write_report
from bench_core.runs.load import load_run
from bench_core.runs.published import read_published

STUDY = Path(__file__).resolve().parents[2] / "docs" / "study.yaml"
FIGURES = """
name: an older study
source: a page
device: another GPU
differs: everything | and more
rows:
  - {label: Old engine, image: engine-x, variant: fp16, batch_size: 4, batch_latency_s: 3.62}
  - {label: Not here, image: engine-y, variant: fp16, batch_size: 4, batch_latency_s: 9.99}
"""


def test_the_studys_figures_stand_beside_variants_that_exist() -> None:
    """A renamed variant would silently lose its figure."""
    study, catalogue = read_published(STUDY), Catalogue()
    for row in study.rows:
        assert row.variant in catalogue.get(row.image).manifest.variants, row.label
        assert row.batch_latency_s is not None
        assert row.output_tokens_per_batch is not None
        assert row.output_throughput_tok_s == pytest.approx(row.output_tokens_per_batch / row.batch_latency_s, rel=0.01)


def test_a_runs_report_shows_the_figures_it_was_told_of(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Script(methods=(Method(image="engine-x", variant="fp16", label="Engine X 16-bit"),)))
    plain = write_report(folder).markdown.read_text(encoding="utf-8")
    (folder / layout.BESIDE_FILE).write_text(FIGURES, encoding="utf-8")
    report = write_report(folder).markdown.read_text(encoding="utf-8")
    assert "Beside an older study" in report
    assert "Beside" not in plain
    (row,) = [line for line in report.splitlines() if line.startswith("| Old engine |")]
    here = load_run(folder).of_batch_size(4)[0].result
    assert here is not None
    assert row.startswith("| Old engine | 4 | 3.620 |")
    assert f"{here.metrics.output_throughput_tok_s:.4g}"[:3] in row
    assert "Not here" not in report
    assert "and more" in report
    assert "everything | and more" not in report, "text from a file acts as a table's border"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("rows: []", "name"),
        ("name: [", r"beside.yaml:\d+: "),
        (FIGURES.replace("batch_size: 4", "batch_size: 0"), "batch_size"),
    ],
)
def test_a_damaged_file_is_refused_with_its_place(tmp_path: Path, text: str, cause: str) -> None:
    folder = write_run(tmp_path, Script(methods=(Method(image="engine-x", variant="fp16", label="X"),)))
    (folder / layout.BESIDE_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=cause):
        load_run(folder)
