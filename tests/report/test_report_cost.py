"""The cost of output tokens by given prices: the formulas, the table and both CSVs, and that they can be checked."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import CT2, VLLM, Method, Script, cell_path, fields, set_latencies, write_run
from serving_runs import write_loaded
from typer.testing import CliRunner

from bench_core.contract.errors import BadInput
from bench_core.report.cli import app
from bench_core.report.decide.cost import (
    NO_PRICE,
    Prices,
    cost_per_million,
    energy_cost_per_million,
    prices,
    prices_told,
)
from bench_core.report.decide.option import Quantity
from bench_core.report.document import document
from bench_core.report.write.cell_table import csv_table
from bench_core.report.write.files import differences, write_report
from bench_core.report.write.markdown import markdown
from bench_core.report.write.serving_table import serving_table
from bench_core.runs.load import load_run
from bench_core.verify.report import report_differences

SCRIPTED = Method("null", "scripted", "null scripted", ranked=False)
BOTH = Prices(2.5, 0.3, "EUR")


def test_a_price_of_3600_an_hour_is_one_a_second() -> None:
    """1000 token/s are a million in 1000 s. From 800 to 1250 token/s: 800 to 1250 s, the faster the cheaper."""
    found = cost_per_million(Prices(3600), Quantity(1000, 800, 1250))
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((1000, 800, 1250))


def test_a_joule_a_token_is_a_million_joules() -> None:
    """1 000 000 J are 1 / 3.6 kWh."""
    assert energy_cost_per_million(Prices(kwh=0.36), 1.0) == pytest.approx(0.1)


def test_without_a_price_or_a_number_there_is_no_cost() -> None:
    assert cost_per_million(NO_PRICE, Quantity(10)) is None
    assert cost_per_million(BOTH, None) is None
    assert cost_per_million(BOTH, Quantity(0)) is None
    assert energy_cost_per_million(NO_PRICE, 1.0) is None
    assert energy_cost_per_million(BOTH, None) is None
    reaching_below = cost_per_million(BOTH, Quantity(10, -1, 21))
    assert reaching_below is not None
    assert reaching_below.low is reaching_below.high is None


@given(st.floats(0.01, 1e4), st.floats(0.1, 1e5), st.floats(0, 0.99))
def test_the_interval_is_turned_round_and_holds_the_cost(price: float, rate: float, share: float) -> None:
    found = cost_per_million(Prices(price), Quantity(rate, rate * (1 - share), rate * (1 + share)))
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    assert found.high * rate * (1 - share) == pytest.approx(found.value * rate)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ((-1.0, None, ""), "--gpu-hour-price -1"),
        ((None, float("inf"), ""), "--kwh-price inf"),
        ((float("nan"), None, ""), "--gpu-hour-price nan"),
        ((None, None, "EUR"), "--currency goes with a price"),
        ((1.0, None, "<b>"), "not a word"),
    ],
)
def test_what_is_no_price_is_refused(arguments: tuple[float | None, float | None, str], cause: str) -> None:
    with pytest.raises(BadInput) as caught:
        prices(*arguments)
    assert cause in caught.value.cause


_price = st.none() | st.floats(0, 1e9)


@given(st.builds(Prices, _price, _price, st.from_regex(r"[A-Za-z]{0,12}", fullmatch=True)).filter(bool))
def test_a_report_tells_the_prices_that_it_was_made_by(given_prices: Prices) -> None:
    assert prices_told(f"A line.\n\nPrices: {given_prices.words}. And more.\n") == given_prices


def test_a_text_without_prices_tells_none() -> None:
    for text in ("", "Prices: . ", "vllm: Prices: 1 for a kWh. ", "Prices: e for a kWh. "):
        assert not prices_told(text)


def test_the_table_has_every_cell_with_numbers_but_the_scripted_engine_s(tmp_path: Path) -> None:
    """20 tokens in 0.1 s are 200 token/s; 2.5 EUR / 3600 / 200 x 1 000 000 = 3.472 EUR."""
    run = write_run(tmp_path, Script((VLLM, CT2, SCRIPTED), batch_sizes=(1, 4), batches=8))
    set_latencies(cell_path(run, VLLM, 1), [0.0999, 0.1001] * 4)
    (sheet,) = [sheet for sheet in document(load_run(run), BOTH).details if sheet.heading == "Cost"]
    rows = fields(sheet)
    assert [(row["Method"], row["At"]) for row in rows] == [
        (method.label, f"batch size {size}") for size in (1, 4) for method in (VLLM, CT2)
    ]
    assert rows[0]["Cost of a million output tokens (EUR)"].startswith("3.472 ± 0.0")
    assert rows[0]["Energy cost of a million output tokens (EUR)"] == "\N{EN DASH}", "no counter in these logs"
    assert sheet.notes[0].startswith("Prices: 2.5 EUR for an hour of the device, 0.3 EUR for a kWh.")


def test_both_csvs_have_the_cost_only_where_a_price_is_given(tmp_path: Path) -> None:
    batches = load_run(write_run(tmp_path / "a", Script((VLLM,), batch_sizes=(1,), batches=8)))
    loads = load_run(write_loaded(tmp_path / "b"))
    for plain, priced, rate in (
        (csv_table(batches), csv_table(batches, BOTH), "workload_throughput_tok_s"),
        (serving_table(loads), serving_table(loads, BOTH), "output_throughput_tok_s"),
    ):
        assert "cost" not in plain
        for line in csv.DictReader(io.StringIO(priced)):
            cost = float(line["cost_per_million_output_tokens"])
            assert cost == pytest.approx(2.5 / 3600 / float(line[rate]) * 1e6)
            low, high = (line[f"cost_per_million_output_tokens_{end}"] for end in ("low", "high"))
            assert (low == "") == (high == "")
            assert not low or float(low) <= cost <= float(high)
            assert "energy_cost_per_million_output_tokens" in line


def test_a_report_with_costs_can_be_checked_and_verified(tmp_path: Path) -> None:
    """Its Markdown says the prices; a changed one no longer goes with the costs."""
    run = write_run(tmp_path, Script((VLLM, CT2), batch_sizes=(1,), batches=8))
    paths = write_report(run, None, Prices(2.5, None, "EUR"))
    assert differences(run) == []
    found, _ = report_differences(run, load_run(run))
    assert found == []
    text = paths.markdown.read_text(encoding="utf-8")
    paths.markdown.write_text(text.replace("Prices: 2.5 EUR", "Prices: 0.5 EUR"), encoding="utf-8")
    assert differences(run) != []


def test_the_command_line_takes_prices(tmp_path: Path) -> None:
    run = write_run(tmp_path, Script((VLLM, CT2), batch_sizes=(1,)))
    plain = markdown(document(load_run(run)))
    ran = CliRunner().invoke(app, [str(run), "--gpu-hour-price", "2.50", "--kwh-price", "0.30"])
    assert ran.exit_code == 0, ran.output
    assert "Prices: 2.5 for an hour of the device, 0.3 for a kWh." in (run / "report.md").read_text(encoding="utf-8")
    assert CliRunner().invoke(app, [str(run)]).exit_code == 0
    assert (run / "report.md").read_text(encoding="utf-8") == plain, "prices are kept nowhere"
    for other in (["--check"], ["--embed", str(tmp_path / "page.md")], ["--publish", str(tmp_path / "p")]):
        assert CliRunner().invoke(app, [str(run), "--kwh-price", "1", *other]).exit_code == 2
