"""The event log is read back exactly as it was written, and damage to it is found and named by its line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_core.contract.errors import BadInput
from bench_core.contract.records.events import (
    Arrivals,
    BatchEvent,
    CellEnded,
    EndEvent,
    EngineEvent,
    Event,
    PhaseEvent,
    Progress,
    StartEvent,
    TelemetryEvent,
    parse_event,
    parse_events,
    parse_stdout,
)
from bench_core.contract.records.outcome import Outcome

BATCH = BatchEvent(
    phase="measure",
    index=0,
    prompts=(4, 5),
    prompts_digest="d" * 64,
    prompt_tokens=(3, 7),
    started_s=12.25,
    latency_s=0.123456789,
    outputs=((1, 2, 3), (4, 5)),
    arrivals=Arrivals(source="worker", shared=False, offsets_us=((10, 20, 30), (10, 20))),
)
EVENTS: tuple[Event, ...] = (
    StartEvent(t_s=1.5, wall_time_utc="2026-01-02T03:04:05.678+00:00", versions={"python": "3.12"}, host={"cpu": "é"}),
    PhaseEvent(phase="load", started_s=1.6, duration_s=0.1),
    EngineEvent(t_s=2.0, facts={"attention": "flash"}, memory={"reserved_bytes": 7}),
    BATCH,
    TelemetryEvent(t_s=(1.0, 2.0), rss_bytes=(5, None), power_w=(99.5, None)),
    EndEvent(t_s=9.0, outcome=Outcome.OOM_KV, phase="prepare", cause="line"),
)


def lines(events: tuple[Event, ...]) -> list[str]:
    return [event.model_dump_json() for event in events]


def batch_with(**changes: Any) -> str:
    return json.dumps({**json.loads(BATCH.model_dump_json()), **changes})


def test_events_come_back_as_they_were_written_each_in_one_line() -> None:
    written = lines(EVENTS)
    assert not any("\n" in line for line in written)
    assert tuple(parse_events(written, "events.jsonl")) == EVENTS
    assert tuple(parse_events([line.encode() for line in written], "events.jsonl")) == EVENTS


@given(
    started_s=st.floats(0, 1e9), latency_s=st.floats(1e-9, 1e6),
    rows=st.lists(st.lists(st.integers(0, 2**31), max_size=5), min_size=1, max_size=4), shared=st.booleans(),
)  # fmt: skip
def test_any_batch_survives_its_line_to_the_last_bit(
    started_s: float, latency_s: float, rows: list[list[int]], shared: bool
) -> None:
    if shared:
        rows = [rows[0]] * len(rows)
    offsets = [tuple(range(len(row))) for row in rows]
    batch = BatchEvent(
        phase="latency", index=3, prompts=tuple(range(len(rows))), prompts_digest="x",
        prompt_tokens=(1,) * len(rows), started_s=started_s, latency_s=latency_s,
        outputs=tuple(tuple(row) for row in rows),
        arrivals=Arrivals(source="engine", shared=shared, offsets_us=tuple(offsets[:1] if shared else offsets)),
    )  # fmt: skip
    assert parse_event(batch.model_dump_json(), "e") == batch


def test_a_batch_counts_its_output_tokens_by_their_ids() -> None:
    assert BATCH.output_tokens == (3, 2)


def test_shared_arrivals_are_every_rows() -> None:
    shared = Arrivals(source="worker", shared=True, offsets_us=((1, 2),))
    assert shared.of_row(0) == shared.of_row(5) == (1, 2)
    assert BATCH.arrivals is not None
    assert BATCH.arrivals.of_row(1) == (10, 20)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"prompts": [4]}, "differ in their number of rows"),
        ({"prompts": []}, "prompts: "),
        ({"prompt_tokens": [3]}, "differ in their number of rows"),
        ({"outputs": [[1, 2, 3]]}, "differ in their number of rows"),
        ({"outputs": [[1, 2], [4, 5]]}, "another number of arrivals than of output tokens"),
        ({"arrivals": {"source": "worker", "shared": False, "offsets_us": [[1, 2, 3]]}}, "arrivals and outputs differ"),
        ({"arrivals": {"source": "worker", "shared": True, "offsets_us": []}}, "arrivals and outputs differ"),
        ({"arrivals": {"source": "worker", "shared": True, "offsets_us": [[1, 2, 3]]}}, "another number of arrivals"),
        ({"arrivals": {"source": "worker", "shared": False, "offsets_us": [[1, 2, 3], [2, 1]]}}, "not in order"),
        ({"arrivals": {"source": "worker", "shared": False, "offsets_us": [[-1, 2, 3], [1, 2]]}}, "before the batch"),
        ({"latency_s": float("inf")}, "latency_s: "),
        ({"arrivals": {"source": "clock", "shared": False, "offsets_us": [[1, 2, 3], [1, 2]]}}, "arrivals.source: "),
        ({"latency_s": 0}, "latency_s: "),
        ({"latency_s": None}, "latency_s: "),
        ({"index": -1}, "index: "),
        ({"phase": "rest"}, "phase: "),
        ({"outputs": [[1, 2, "3"], [4, 5.5]]}, "outputs.1.1: "),
        ({"speed": 1}, "speed: unknown key"),
    ],
)
def test_a_batch_whose_parts_do_not_fit_together_is_refused(changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_event(batch_with(**changes), "e")
    assert cause in caught.value.cause


def test_telemetry_columns_of_unequal_length_are_refused() -> None:
    good = json.loads(EVENTS[4].model_dump_json())
    for column in ("rss_bytes", "power_w", "t_s"):
        with pytest.raises(BadInput, match="columns"):
            parse_event(json.dumps({**good, column: good[column] * 2}), "e")


@pytest.mark.parametrize(
    "line",
    ["", "\n", "null", "[]", "{}", '{"type": "unknown"}', '{"type": "end"', '{"type": "start", "version": 2}', "\x00"],
)
def test_a_damaged_line_is_named_by_its_number(line: str) -> None:
    good = lines(EVENTS)
    reader = parse_events([*good[:2], line, *good[2:]], "events.jsonl")
    assert (next(reader), next(reader)) == EVENTS[:2]
    with pytest.raises(BadInput) as caught:
        next(reader)
    assert caught.value.cause.startswith("events.jsonl:3: ")
    assert "\n" not in str(caught.value)


@settings(max_examples=60)
@given(st.integers(0, 5), st.data())
def test_a_log_cut_short_in_any_line_is_found(number: int, data: st.DataObject) -> None:
    line = lines(EVENTS)[number]
    cut = line[: data.draw(st.integers(0, len(line) - 1))]
    with pytest.raises(BadInput):
        parse_event(cut, "e")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


def read_or_refused(line: str | bytes) -> Event | BadInput:
    try:
        return parse_event(line, "e")
    except BadInput as error:
        return error


@settings(max_examples=300)
@given(st.one_of(st.text(), st.binary(), JSON.map(json.dumps)), st.sampled_from(EVENTS), st.data())
def test_nothing_but_bad_input_comes_out_of_the_reader(noise: str | bytes, event: Event, data: st.DataObject) -> None:
    content = json.loads(event.model_dump_json())
    content[data.draw(st.sampled_from(sorted(content)))] = data.draw(JSON)
    for line in (noise, json.dumps(content)):
        read = read_or_refused(line)
        assert not isinstance(read, BadInput) or "\n" not in str(read)


def test_a_workers_standard_output_is_read_and_chatter_in_it_is_not() -> None:
    progress = Progress(cell="c", phase="measure", done=1, of=3)
    ended = CellEnded(cell="c", outcome=Outcome.CRASHED, cause="why")
    assert parse_stdout(progress.model_dump_json()) == progress
    assert parse_stdout(ended.model_dump_json().encode()) == ended
    for chatter in ("", "Loading weights: 10%", "{}", '{"type": "progress"}', "[" * 10_000, b"\xff"):
        assert parse_stdout(chatter) is None
