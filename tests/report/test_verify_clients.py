"""A load from other nodes verifies, and whatever is changed in what their clocks told is found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving_runs import FAST, Line, LoadScript, change_log, edit, recompute, write_loaded
from test_verify_serving import EVENTS, differences, named, requests, the

from bench_core.contract.records import layout
from bench_core.report.document import document
from bench_core.runs.load import load_run

CLOSED, OPEN = "vllm.fp16.c4", "vllm.fp16.r20"
US, SECOND = 1000, 1_000_000_000
AHEAD_NS = {"near": 250 * US, "far": 4_000 * SECOND + 17}


def rounds(ahead_ns: int, at_ns: int) -> dict[str, list[int]]:
    """Five questions, the third of them answered fastest, after 30 and 34 µs on its ways."""
    ways_us = [(90, 40), (35, 80), (30, 34), (200, 31), (40, 45)]
    asked = [at_ns + 10**6 * place for place in range(len(ways_us))]
    heard = [at + ahead_ns + there * US for at, (there, _) in zip(asked, ways_us, strict=True)]
    answered = [at + 4 * US for at in heard]
    back = [at - ahead_ns + home * US for at, (_, home) in zip(answered, ways_us, strict=True)]
    return {"asked": asked, "heard": heard, "answered": answered, "back": back}


def from_two_nodes(lines: list[Line]) -> None:
    """The log as it would be if two nodes had sent the same requests in turns."""
    for request in requests(lines):
        request["process"] = request["index"] % 2
    first = the(lines, "generator")
    place = lines.index(first)
    tokens = [sum(sum(r["arrival_tokens"]) for r in requests(lines) if r["process"] == one) for one in (0, 1)]
    start_s = min(request["scheduled_s"] for request in requests(lines))
    offsets = {}
    last_s = max(request["ended_s"] for request in requests(lines))
    start_ns = round(start_s * SECOND)
    clients: list[Line] = []
    for number, (name, ahead_ns) in enumerate(AHEAD_NS.items()):
        before = rounds(ahead_ns, start_ns - SECOND // 5)
        offsets[name] = ahead_ns - 2 * US  # half of what the ways of the shortest differ by
        after = rounds(ahead_ns + 6 * US, round((last_s + 0.001) * SECOND))
        clients.append(
            {
                "type": "client", "node": name, "processes": [number], "before": before, "after": after,
                "start_ns": start_ns, "start_there_ns": start_ns + offsets[name],
            }
        )  # fmt: skip
    lines[place : place + 1] = [
        *({**first, "process": number, "tokens": tokens[number]} for number in (0, 1)),
        *clients,
    ]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Closed and open loop from two nodes, of which one has a clock that is more than an hour ahead."""
    script = LoadScript(engines=(replace(FAST, slots=4),), loads=("c4", "r20"), window_s=6.0)
    run = write_loaded(tmp_path_factory.mktemp("real"), script)
    for cell in (CLOSED, OPEN):
        edit(
            layout.cell_folder(run, cell) / layout.SPEC_FILE,
            lambda spec: spec["serve"]["protocol"].update(client_nodes=2),
        )
        change_log(run, cell, from_two_nodes, sealed=True)
        recompute(run, cell)
    return run


@pytest.fixture
def mine(real: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(real, tmp_path / "loaded"))


def test_a_load_from_two_nodes_verifies(real: Path) -> None:
    assert differences(real) == ()


def test_its_report_has_the_clocks_of_each(real: Path) -> None:
    view = load_run(real)
    (sheet,) = (one for one in document(view).details if one.heading == "Clocks of client nodes")
    told = {tuple(entry.text for entry in row[1:]) for row in sheet.rows}
    near = ("near", "0", "0.000248", "32.0", "6.0", "32.0")
    assert {row[1:7] for row in told} == {near, ("far", "1", "3999.999998", "32.0", "6.0", "32.0")}
    assert {row[-1] for row in told} == {"38.0"}, "the drift, and what the later offset is known to"
    assert not [row.unranked for row in view.served if row.unranked]


def client(lines: list[Line], node: str = "far") -> Line:
    return next(line for line in lines if line["type"] == "client" and line["node"] == node)


def _shift(part: str, names: tuple[str, ...], by_us: int, places: slice = slice(None)) -> Callable[[list[Line]], None]:
    def change(lines: list[Line]) -> None:
        columns: dict[str, Any] = client(lines)[part]
        for name in names:
            columns[name][places] = [value + by_us * US for value in columns[name][places]]

    return change


def _start_there(by_us: int) -> Callable[[list[Line]], None]:
    return lambda lines: client(lines).update(start_there_ns=client(lines)["start_there_ns"] + by_us * US)


def _both(*changes: Callable[[list[Line]], None]) -> Callable[[list[Line]], None]:
    def change(lines: list[Line]) -> None:
        for one in changes:
            one(lines)

    return change


THERE = ("heard", "answered")
BEST = slice(2, 3)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_start_there(40), "client node far: its requests were moved by .* its clock was found to be ahead by"),
        (_start_there(-1), "its requests were moved by"),
        (_shift("before", THERE, 100), "its requests were moved by"),
        (_both(_shift("before", THERE, 100, BEST), _start_there(100)), "no offset fits to all questions .* before"),
        (_shift("after", THERE, 100, BEST), "no offset fits to all questions to its clock, after the load"),
        (_shift("after", THERE, 40_000), "its clock has moved by 40006.0 µs against the other, more than"),
        (_shift("before", ("asked", "back"), 10**6), "was not compared before and after the load"),
        (_shift("after", (*THERE, "asked", "back"), -(10**8)), "was not compared before and after the load"),
        (
            lambda lines: [column.reverse() for column in client(lines)["before"].values()],
            "questions to its clock before the load are not in the order of time",
        ),
        (lambda lines: lines.remove(client(lines)), "1 client nodes have told of their clocks, asked for were 2"),
        (lambda lines: client(lines).update(node="near"), "2 client nodes have told"),
        (lambda lines: client(lines).update(processes=[2]), "load generators and client nodes do not fit together"),
        (
            lambda lines: client(lines).update(
                start_ns=client(lines)["start_ns"] + US * 50, start_there_ns=client(lines)["start_there_ns"] + US * 50
            ),
            "client nodes were given different beginnings of the load",
        ),
    ],
)
def test_what_a_clock_told_cannot_be_changed(mine: Path, change: Callable[[list[Line]], object], what: str) -> None:
    change_log(mine, OPEN, change, sealed=True)
    assert named(differences(mine), OPEN, EVENTS, what), differences(mine)


def test_requests_of_one_node_cannot_be_moved_as_a_whole(mine: Path) -> None:
    """Their own times stay what they are; that they were due with the others' does not."""

    def moved(lines: list[Line]) -> None:
        for request in requests(lines):
            if request["process"] == 1:
                for name in ("scheduled_s", "sent_s", "headers_s", "ended_s"):
                    request[name] = request[name] and request[name] + 0.0005

    for cell, what in ((OPEN, "at other times than the schedule's"), (CLOSED, "a stream did not begin with the load")):
        change_log(mine, cell, moved, sealed=True)
        assert named(differences(mine), cell, EVENTS, what)


def test_a_load_of_one_host_has_no_clocks_of_others(mine: Path) -> None:
    edit(
        layout.cell_folder(mine, OPEN) / layout.SPEC_FILE, lambda spec: spec["serve"]["protocol"].update(client_nodes=0)
    )
    assert named(differences(mine), OPEN, EVENTS, "2 client nodes have told of their clocks, asked for were 0")


def test_a_clock_that_is_not_known_well_enough_leaves_the_cell_unranked(mine: Path) -> None:
    def slow(lines: list[Line]) -> None:
        for name in ("answered", "heard"):
            client(lines)["after"][name] = [value + 3_000 * US for value in client(lines)["after"][name]]

    change_log(mine, OPEN, slow, sealed=True)
    recompute(mine, OPEN)
    (row,) = (row for row in load_run(mine).served if row.planned.cell == OPEN)
    assert row.unranked == "the client was the bottleneck: the clock of far is known to 3.0 ms only, drift included"


def test_of_two_generators_one_may_send_fewer_and_none_may_leave_one_out(mine: Path) -> None:
    def breaches() -> tuple[str, ...]:
        recompute(mine, CLOSED)
        (row,) = (row for row in load_run(mine).served if row.planned.cell == CLOSED)
        return row.breaches

    def slower(lines: list[Line]) -> None:
        own = [request for request in requests(lines) if request["process"] == 1]
        for request in sorted(own, key=lambda one: one["index"])[-3:]:
            lines.remove(request)

    def lost(lines: list[Line]) -> None:
        lines.remove([request for request in requests(lines) if request["process"] == 1][5])

    change_log(mine, CLOSED, slower, sealed=True)
    assert breaches() == ()
    change_log(mine, CLOSED, lost, sealed=True)
    assert breaches() == ("1 requests of those that were sent are not told",)
