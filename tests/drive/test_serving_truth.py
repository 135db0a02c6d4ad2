"""Cells under load against a server whose truth is its script: loops, rates below and above what it takes, capacity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Drive

from bench_core.contract.records import layout
from bench_core.contract.serving.capacity import Capacity
from bench_core.contract.serving.measures import ServeMetrics
from bench_core.runs.load import load_run
from bench_core.runs.view import ServedRow
from bench_core.verify.run import verify_run
from bench_core.verify.serving import NO_COURSE

pytestmark = pytest.mark.alone  # others' use of the CPUs is in every latency

TTFT_S, TPOT_S, TOKENS, SLOTS = 0.05, 0.01, 21, 8
SERVICE_S = TTFT_S + TPOT_S * (TOKENS - 1)
CAPACITY = SLOTS / SERVICE_S  # requests/s
SCRIPT = {"ttft_s": TTFT_S, "tpot_s": TPOT_S, "served_at_once": SLOTS, "load_s": 0}
COMMON = (
    *("--images", "null", "--device", "cpu", "--launcher", "process", "--no-harness-check", "--no-device-rates"),
    *("--samples", "16", "--max-new-tokens", str(TOKENS), "--max-ramp-seconds", "4", "--run-id", "mine", "--yes"),
    *(word for name, value in SCRIPT.items() for word in ("--option", f"null.{name}={value}")),
)


def test_every_number_is_near_the_scripts(drive: Drive, tmp_path: Path) -> None:
    """A busy machine makes a server and its client late, by milliseconds; a wrong formula is further off than that."""
    low, high = round(0.3 * CAPACITY), round(1.5 * CAPACITY)
    limits = ("--slo", f"ttft_s={TTFT_S * 3},tpot_s={TPOT_S * 3}")
    done = drive(
        *COMMON, "--concurrency", "1,4", "--request-rate", f"{low},{high}", "--max-serve-seconds", "6", *limits
    )
    assert done.code == 0, done.err
    folder = tmp_path / "results" / "mine"
    rows = {row.load.words: row for row in load_run(folder).served}
    for streams in (1, 4):
        metrics = _metrics(rows[f"concurrency {streams}"])
        expected = streams * TOKENS / SERVICE_S
        assert metrics.output_throughput_tok_s.value == pytest.approx(expected, rel=0.15)
        assert metrics.request_throughput_per_s.value == pytest.approx(streams / SERVICE_S, rel=0.15)
        assert metrics.in_flight.mean == pytest.approx(streams, rel=0.05)
        assert metrics.tpot_s is not None
        assert metrics.tpot_s.mean.value == pytest.approx(TPOT_S, rel=0.1)
        assert metrics.ttft_s is not None
        assert TTFT_S <= metrics.ttft_s.mean.value < 2 * TTFT_S
    below = _metrics(rows[f"{low} requests/s"])
    assert not below.saturated
    assert below.kept is not None
    assert below.kept.attainment.value > 0.9
    above = _metrics(rows[f"{high} requests/s"])
    assert above.saturated
    assert above.stop_reason == "saturated"
    assert above.kept is not None
    assert above.kept.attainment.value < 0.5
    verified = verify_run(folder)
    assert verified.differences == ()
    assert not any(NO_COURSE in line for line in verified.not_checked), "each window was decided again"


def test_a_trial_that_is_too_much_leaves_nothing_to_the_next(drive: Drive, tmp_path: Path) -> None:
    """Its requests are given up, and there are servers that go on with them: this one for half a minute."""
    limits = ("--slo", f"ttft_s={TTFT_S * 3}", "--option", "null.client_goes=goes_on", "--capacity-start", "128")
    times = ("--max-ramp-seconds", "1.5", "--max-serve-seconds", "3", "--attainment", "0.9")
    done = drive(*COMMON, "--find-capacity", "null.scripted", *limits, *times)
    assert done.code == 0, done.err
    home = tmp_path / "results" / "mine" / layout.CAPACITY_FOLDER
    found = Capacity.read(home / "null.scripted.json")
    kept = {trial.load: trial.attainment for trial in found.trials}[CAPACITY / 2]
    assert kept is not None
    assert kept.value == 1.0
    begun = [_loaded_at(home / found.home / trial.folder) for trial in found.trials]
    assert begun[0] < begun[1], "a server that has requests left is ended"
    assert begun[-2] == begun[-1], "one that has none goes on"


def _loaded_at(folder: Path) -> float:
    """When the server of a folder's one cell was started."""
    (log,) = folder.glob(f"{layout.CELLS_FOLDER}/*/{layout.EVENTS_FILE}")
    (phase,) = (event for event in map(json.loads, log.read_bytes().splitlines()) if event["type"] == "phase")
    return float(phase["started_s"])


def _metrics(row: ServedRow) -> ServeMetrics:
    assert row.result is not None, row.problem
    return row.result.metrics


def test_a_window_shorter_than_eight_requests_tells_too_much_load_and_no_other(drive: Drive, tmp_path: Path) -> None:
    """Told behind the window, while its last requests are waited for. Each cell has what its server tells of itself."""
    below, above = round(0.8 * CAPACITY), round(3 * CAPACITY)
    done = drive(
        *COMMON, "--request-rate", f"{below},{above}", "--max-ramp-seconds", "0.5", "--max-serve-seconds", "1.2",
        "--serve-precision", "0.001",
    )  # fmt: skip
    assert done.code == 0, done.err
    folder = tmp_path / "results" / "mine"
    rows = {row.load.request_rate: row for row in load_run(folder).served}
    assert not _metrics(rows[below]).saturated
    told = _metrics(rows[above])
    assert told.saturated
    assert told.stop_reason == "max_seconds"
    assert told.window_s == pytest.approx(1.2, abs=0.5)
    verified = verify_run(folder)
    assert verified.differences == ()
    assert not any(NO_COURSE in line for line in verified.not_checked)
    assert "saturated" in (folder / "report.md").read_text()
    for row in rows.values():
        assert row.result is not None
        assert row.result.engine_facts == {"slots": str(SLOTS), "ttft_s": str(TTFT_S), "tpot_s": str(TPOT_S)}
    assert "How the servers ran" in (folder / "report.md").read_text()


def test_capacity_is_the_scripts(drive: Drive, tmp_path: Path) -> None:
    """In a closed loop what is waited for is known to a request: the server has so many slots."""
    limits = ("--slo", f"ttft_s={TTFT_S * 2.5}", "--attainment", "0.9", "--capacity-of", "concurrency")
    search = ("--find-capacity", "null.scripted", "--capacity-start", "4", "--capacity-limit", "32")
    done = drive(*COMMON, *search, *limits, "--max-serve-seconds", "3")
    assert done.code == 0, done.err
    found = Capacity.read(tmp_path / "results" / "mine" / "capacity" / "null.scripted.json")
    assert found.highest == SLOTS
    assert found.lowest_failing == SLOTS + 1
    assert [trial.load for trial in found.trials][:3] == [4, 8, 16]
    assert str(SLOTS) in done.err
    assert verify_run(tmp_path / "results" / "mine", published=False).differences == ()
    again = drive("--resume", "mine", "--no-device-rates", "--yes", own_folders=True)
    assert again.code == 0, again.err
    assert "known already" in again.err


def test_a_window_in_which_no_request_was_due_is_a_timeout(drive: Drive, tmp_path: Path) -> None:
    """The warm-up's requests were answered. The engine has not crashed, and the cell says what would help."""
    done = drive(
        *COMMON, "--request-rate", "0.5", "--arrivals", "constant", "--max-ramp-seconds", "2.5",
        "--max-serve-seconds", "0.3",
    )  # fmt: skip
    (row,) = load_run(tmp_path / "results" / "mine").served
    assert row.status == "timeout", (row.problem, done.err)
    assert "no request was due in the " in row.problem
    assert "--max-serve-seconds" in row.problem
    assert verify_run(tmp_path / "results" / "mine").differences == ()


def test_of_a_trace_every_token_counts(drive: Drive, tmp_path: Path) -> None:
    """Most requests come at once and the last one later, when load generators with nothing left to send have ended."""
    trace = tmp_path / "trace.jsonl"
    times = (0.0, 0.0, 0.0, 0.0, 6.0)
    lines = ({"arrival_s": at_s, "prompt_tokens": 4, "output_tokens": TOKENS} for at_s in times)
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = drive(*COMMON, "--trace", str(trace), "--client-processes", "3")
    assert done.code == 0, done.err
    folder = tmp_path / "results" / "mine"
    (row,) = load_run(folder).served
    metrics = _metrics(row)
    assert metrics.stop_reason == "schedule_used_up"
    assert metrics.window_s == pytest.approx(times[-1] + SERVICE_S, abs=0.5)
    assert metrics.output_throughput_tok_s.value * metrics.window_s == pytest.approx(TOKENS * len(times))
    assert metrics.requests.ok == len(times)
    assert verify_run(folder).differences == ()


def test_streams_that_met_refused_connections_verify(drive: Drive, tmp_path: Path) -> None:
    """Each pauses before its next request."""
    refuses = ("--option", "null.fail_every=8", "--option", "null.request_fails=refuse")
    done = drive(*COMMON, "--concurrency", "16", "--max-serve-seconds", "4", *refuses)
    assert done.code == 0, done.err
    folder = tmp_path / "results" / "mine"
    (row,) = load_run(folder).served
    assert row.result is not None, row.problem
    assert row.result.metrics.requests.failed.get("refused"), "there was none"
    assert verify_run(folder).differences == ()
