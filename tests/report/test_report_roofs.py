"""What the report says of roofs, telemetry, memory and budgets: the numbers of the script, and nothing where there are
none."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_runs import FP32, GPU, VLLM, Method, Script, cell_path, read_log, write_log, write_run

from bench_core.contract.measures.min_memory import MinMemory, Trial
from bench_core.contract.models.stored_weights import StoredWeights
from bench_core.contract.records import layout
from bench_core.contract.records.device_rates import DeviceRates, Measurement
from bench_core.contract.records.outcome import Outcome
from bench_core.report.document import document
from bench_core.report.write.cell_table import csv_table
from bench_core.report.write.files import write_report
from bench_core.report.write.markdown import markdown
from bench_core.runs.load import load_run

ENGINE = Method(
    "engine", "fp16", "Engine fp16", ttft_s=0.02, tpot_s=0.010, per_prompt=0.0, weights_bytes=14_000_000_000,
    prompt_bytes=0, facts={"dtype": "float16"},
)  # fmt: skip
QUIET = replace(ENGINE, image="quiet", label="Quiet", arrivals="none")
# 100 batches of 0.21 s: long enough for energy.
SCRIPT = Script((ENGINE, QUIET), batch_sizes=(1, 4), batches=100)


def roofs(name: str, **changes: Any) -> DeviceRates:
    """2 TB/s, 500 TFLOP/s in float16, 4 us a launch, a context of half a GiB."""

    def measured(kind: str, dtype: str, rate: float) -> Measurement:
        found = {"kind": kind, "name": f"{kind} {dtype}", "dtype": dtype, "shape": (1,), "amount": rate}
        return Measurement.model_validate({**found, "iterations": 1, "samples_s": (1.0, 1.25)})

    given: dict[str, Any] = {
        "name": name, "wall_time_utc": "t", "device": "cuda", "gpu_uuid": GPU.uuid, "cpu": "c", "threads": 16,
        "seconds": 4.0, "context_bytes": 1 << 29, "versions": {"torch": "2.11.0"},
        "measurements": (measured("read", "float32", 2e12), measured("matrix", "float16", 5e14),
                         measured("launch", "float32", 2.5e5)),
    }  # fmt: skip
    return DeviceRates(**{**given, **changes})


def add(run: Path, record: DeviceRates | MinMemory, name: str) -> Path:
    home = run / (layout.DEVICE_RATES_FOLDER if isinstance(record, DeviceRates) else layout.MIN_MEMORY_FOLDER)
    home.mkdir(exist_ok=True)
    (home / f"{name}.json").write_text(record.to_json(), encoding="utf-8")
    return home / f"{name}.json"


def telemetry(cell: Path, **columns: Any) -> None:
    """Gives every sample of a cell these values; a function of the sample's time where it is one."""
    events = read_log(cell)
    for event in events:
        if event["type"] == "telemetry":
            for name, value in columns.items():
                event[name] = [value(t) if callable(value) else value for t in event["t_s"]]
    write_log(cell, events)


def sheet(run: Path, heading: str) -> list[dict[str, str]]:
    """Rows of one table of the written report, by column."""
    text = markdown(document(load_run(run)))
    assert f"### {heading}\n" in text, heading
    lines = [line for line in text.split(f"### {heading}\n")[1].split("\n### ")[0].splitlines() if line[:1] == "|"]
    names = [name.strip() for name in lines[0].strip("|").split("|")]
    rows = [[field.strip() for field in line.strip("|").split("|")] for line in lines[2:]]
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_a_cell_under_its_roofs_has_the_scripts_numbers(tmp_path: Path) -> None:
    """Steps of 10 ms; prompts of 50 tokens, 19 steps: a context of 60. 13.2 GB of weights and 31 MB of cache."""
    run = write_run(tmp_path, SCRIPT)
    add(run, roofs("v1.gpu-0"), "v1.gpu-0")
    rows = sheet(run, "Roofline")
    step_bytes = 13_476_831_232 - 262_144_000 + 8192 + 60 * 524_288
    assert rows[0] == {
        "Method": "Engine fp16", "Batch size": "1", "Decode step (ms)": "10.00", "Context (tokens)": "60",
        "Bytes a step (GB)": "13.2", "Work a step (GFLOP)": "13.2", "MBU": f"{step_bytes / 0.010 / 2e12:.3f}",
        "MFU": "0.003", "Prompt MFU": rows[0]["Prompt MFU"], "Verdict": "bandwidth-bound",
        "Because": "MBU at least 0.6",
    }  # fmt: skip
    assert float(rows[0]["Prompt MFU"]) == pytest.approx(2 * 6_476_271_616 * 50 / 0.02 / 5e14, rel=0.02)
    assert [row["MBU"] for row in rows if row["Method"] == "Quiet"] == ["\N{EN DASH}"] * 2
    (roof,) = sheet(run, "Peak rates")
    assert roof["Bandwidth (GB/s)"] == "2000"
    assert roof["float16 (TFLOP/s)"] == "500"
    assert roof["Launch (µs)"] == "4.00"
    line = next(csv.DictReader(csv_table(load_run(run)).splitlines()))
    assert float(line["mbu"]) == pytest.approx(step_bytes / 0.010 / 2e12)
    assert line["bound"] == "bandwidth-bound"


def test_a_cell_stands_under_the_roofs_of_its_own_card_and_visit(tmp_path: Path) -> None:
    run = write_run(tmp_path, SCRIPT)
    other = roofs("v1.gpu-9", gpu_uuid="GPU-9", measurements=())
    add(run, other, "v1.gpu-9")
    assert sheet(run, "Roofline")[0]["MBU"] == "\N{EN DASH}"
    assert sheet(run, "Roofline")[0]["Because"] == "the device was not measured"
    add(run, roofs("v2.gpu-0", context_bytes=7), "v2.gpu-0")
    view = load_run(run)
    found = view.device_rates_of(view.rows[0])
    assert isinstance(found, DeviceRates)
    assert found.name == "v2.gpu-0", "the same card at another visit is better than none"
    add(run, roofs("v1.gpu-0"), "v1.gpu-0")
    view = load_run(run)
    found = view.device_rates_of(view.rows[0])
    assert isinstance(found, DeviceRates)
    assert found.name == "v1.gpu-0"


def test_rates_of_a_device_are_read_under_their_former_name(tmp_path: Path) -> None:
    run = write_run(tmp_path, SCRIPT)
    add(run, roofs("v1.gpu-0"), "v1.gpu-0")
    now = load_run(run).device_rates
    assert len(now) == 1
    (run / layout.DEVICE_RATES_FOLDER).rename(run / layout.FORMER_DEVICE_RATES_FOLDER)
    assert load_run(run).device_rates == now


def test_a_cpus_roofs_hold_for_its_visit_and_its_threads(tmp_path: Path) -> None:
    run = write_run(tmp_path, replace(SCRIPT, device="cpu"))
    cpu = {"device": "cpu", "gpu_uuid": None, "context_bytes": None}
    add(run, roofs("v1.cpu", **cpu, threads=2), "v1.cpu")
    view = load_run(run)
    assert view.device_rates_of(view.rows[0]) is None
    add(run, roofs("v1.cpu", **cpu), "v1.cpu")
    view = load_run(run)
    assert view.device_rates_of(view.rows[0]) is not None
    add(run, roofs("v2.cpu", **cpu), "v1.cpu")  # another day, perhaps another machine
    view = load_run(run)
    assert view.device_rates_of(view.rows[0]) is None


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"schema_version": 2}'])
def test_a_damaged_measurement_of_a_device_costs_its_roofs_and_no_cell(tmp_path: Path, content: str) -> None:
    run = write_run(tmp_path, SCRIPT)
    add(run, roofs("v1.gpu-0"), "v1.gpu-0").write_text(content)
    view = load_run(run)
    assert view.device_rates == ()
    assert all(row.result for row in view.rows)
    outside = tmp_path / "elsewhere.json"
    outside.write_text(roofs("v1.gpu-0").to_json())
    link = run / layout.DEVICE_RATES_FOLDER / "v1.gpu-0.json"
    link.unlink()
    link.symlink_to(outside)
    assert load_run(run).device_rates == (), "a report reads its run and nothing else"


def test_a_run_without_roofs_or_telemetry_looks_as_before(tmp_path: Path) -> None:
    run = write_run(tmp_path, replace(SCRIPT, device="cpu"))
    text = markdown(document(load_run(run)))
    for heading in ("Roofline", "Peak rates", "Device", "Memory explained", "Smallest memory"):
        assert f"### {heading}\n" not in text
    assert {"mbu", "power_w"}.isdisjoint(csv_table(load_run(run)).splitlines()[0].split(","))


def test_a_cell_that_was_not_sampled_for_a_second_is_listed(tmp_path: Path) -> None:
    """On a CPU there is no other news of a device; the script samples once a batch, every 0.22 s or every 1.5 s."""
    slow = replace(ENGINE, image="slow", label="Slow", tpot_s=0.075)
    run = write_run(tmp_path, replace(SCRIPT, device="cpu", methods=(ENGINE, slow), batch_sizes=(1,)))
    (row,) = sheet(run, "Device")
    assert (row["Method"], row["Power (W)"]) == ("Slow", "\N{EN DASH}")
    assert float(row["Longest sampling gap (s)"]) == pytest.approx(1.45, abs=0.06)


def test_energy_and_clocks_of_a_cell_are_told(tmp_path: Path) -> None:
    """300 W on the counter, 306 by the power reading; 20 tokens a batch of 0.22 s with its pause."""
    run = write_run(tmp_path, SCRIPT)
    telemetry(
        cell_path(run, ENGINE, 1), sm_clock_mhz=1980, memory_clock_mhz=2619, temperature_c=61, utilisation_percent=97,
        power_w=306.0, energy_mj=lambda t: round(t * 300_000), throttle_reasons=0,
    )  # fmt: skip
    (row,) = sheet(run, "Device")
    assert (row["SM clock (MHz)"], row["Memory clock (MHz)"], row["Power (W)"]) == ("1980", "2619", "306")
    assert (row["Utilisation"], row["Difference (%)"], row["Throttling"]) == ("0.970", "+2.0", "none")
    assert row["CPU packages (J)"] == "\N{EN DASH}"
    # 100 batches of 0.21 s and 99 pauses of 0.01 s at 300 W for 2000 tokens.
    assert float(row["Energy (J/token)"]) == pytest.approx(300 * 21.99 / 2000, rel=0.01)


def test_a_cell_measured_under_throttling_is_marked_where_its_number_stands(tmp_path: Path) -> None:
    run = write_run(tmp_path, SCRIPT)
    telemetry(cell_path(run, ENGINE, 1), throttle_reasons=0x40)
    telemetry(cell_path(run, ENGINE, 4), throttle_reasons=0x4)  # at the card's own power limit
    text = markdown(document(load_run(run)))
    first, second = text.split("## Batch size 1\n")[1].split("## Batch size 4\n")
    assert re.search(r"95\.24 ± [\d.]+\*\* § \|", first)
    assert "§ throttled" in first
    assert "§" not in second.split("\n## ")[0]
    told = [(row["At the power limit"], row["Throttling"]) for row in sheet(run, "Device")]
    assert told == [("0 %", "hardware thermal slowdown 100 %"), ("100 %", "none")]
    assert ">throttled</span>" in write_report(run).page.read_text(encoding="utf-8")


def test_memory_is_explained_and_what_is_not_stands_there(tmp_path: Path) -> None:
    """14.0 GB and the context in use, 13.48 GB of weights, 35 MB of cache, 8 MB of activations are predicted."""
    run = write_run(tmp_path, SCRIPT)
    row = sheet(run, "Memory explained")[0]
    assert (row["Weights"], row["KV cache"], row["Context"]) == ("12.6 GiB", "0.0342 GiB", "\N{EN DASH}")
    assert row["Measured"] == "12.5 GiB"  # 14.0 GB less the 600 MiB of before
    add(run, roofs("v1.gpu-0"), "v1.gpu-0")
    explained = sheet(run, "Memory explained")[0]
    assert explained["Context"] == "0.500 GiB"
    assert explained["Unexplained"].startswith("-")


def test_a_reserving_engine_is_explained_at_its_smallest_budget(tmp_path: Path) -> None:
    run = write_run(tmp_path, Script((replace(VLLM, facts={"dtype": "float16"}),), batch_sizes=(1,)))
    trials = (
        Trial(value=0.95, number=1, outcome=Outcome.OK, sustained=True, output_throughput_tok_s=150.0),
        Trial(value=0.17, number=2, outcome=Outcome.OOM_KV, sustained=False, cause="no room"),
        Trial(
            value=0.172,
            number=3,
            outcome=Outcome.OK,
            sustained=True,
            device_peak_bytes=14 << 30,
            output_throughput_tok_s=149.0,
        ),
    )
    cell = "vllm.fp16.b1"
    search = MinMemory(
        cell=cell, option="gpu_memory_utilization", unit="fraction", device_memory_bytes=GPU.memory_bytes,
        low=0.05, high=0.95, trials=trials, smallest=0.172, largest_failing=0.17,
    )  # fmt: skip
    add(run, search, cell)
    assert "(smallest budget)" in sheet(run, "Memory explained")[0]["Measured"]
    (row,) = sheet(run, "Smallest memory")
    assert (row["Smallest"], row["In bytes"], row["Largest that failed"]) == ("0.172", "13.7 GiB", "0.170")
    assert (row["GPU peak there"], row["Trials"]) == ("14.0 GiB", "3")
    add(run, search.model_copy(update={"smallest": None, "problem": "it <b>crashed</b>"}), cell)
    assert sheet(run, "Smallest memory")[0]["Problem"] == "it &lt;b&gt;crashed&lt;/b&gt;"


def test_weights_of_a_converted_artifact_are_those_that_it_stores(tmp_path: Path) -> None:
    """Four bits a weight: a quarter of the bytes, and of the step, at the same bandwidth."""
    run = write_run(tmp_path, replace(SCRIPT, methods=(ENGINE,), batch_sizes=(1,)))
    path = cell_path(run, ENGINE, 1) / layout.SPEC_FILE
    spec = json.loads(path.read_text())
    spec["artifact"] = "gptq-int4-g128"
    add(run, roofs("v1.gpu-0"), "v1.gpu-0")
    path.write_text(json.dumps(spec))
    assert sheet(run, "Roofline")[0]["Because"] == (
        "bytes of a step are not known: how many bytes the weights take is not told"
    )
    spec["weights"] = StoredWeights(total_bytes=3_900_000_000, embedding_bytes=262_144_000).model_dump()
    path.write_text(json.dumps(spec))
    assert float(sheet(run, "Roofline")[0]["Bytes a step (GB)"]) == pytest.approx(3.67, abs=0.01)


def test_cells_of_a_quick_engine_have_no_verdict_without_a_known_dtype(tmp_path: Path) -> None:
    run = write_run(tmp_path, Script((replace(FP32, dies={}),), batch_sizes=(1,)))
    add(run, roofs("v1.gpu-0"), "v1.gpu-0")
    (row,) = sheet(run, "Roofline")
    assert (row["Verdict"], row["MBU"]) == ("\N{EN DASH}", "\N{EN DASH}")
