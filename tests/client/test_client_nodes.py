"""Load generators as on other hosts, against the scripted server: whole schedules, other clocks, losses, strangers."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from null_server import ENTRY, NullServer, asks_of, null_server
from other_hosts import Hosts, free_port, hosts

from bench_core.client.load_generators import Finished
from bench_core.client.nodes.gathering import Gathering
from bench_core.client.nodes.generators import NodeGenerators
from bench_core.client.nodes.host import Host, connected
from bench_core.client.nodes.wire import admit, enter
from bench_core.contract.errors import MachineFailure
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.requests import RequestEvent
from bench_core.system.processes import alive

FAST = ("--ttft-s", "0.02", "--tpot-s", "0.002")
OPEN = Serve(load="rate", request_rate=100)
AHEAD_S = 4000


def closed(concurrency: int) -> Serve:
    return Serve(load="concurrency", concurrency=concurrency)


def generators(
    there: Hosts, server: NullServer, load: Serve, total: int, *, processes: int = 1, offsets_us: Sequence[int] = ()
) -> NodeGenerators:
    return NodeGenerators(
        there.gathering, server.address, ENTRY, asks=asks_of(server, 3, 10), load=load, total=total,
        offsets_us=offsets_us, processes=processes,
    )  # fmt: skip


def all_of(load: NodeGenerators) -> tuple[float, list[RequestEvent], Finished]:
    start_s = load.start(time.monotonic() + 0.3)
    events: list[RequestEvent] = []
    while not load.done:
        events += load.poll(0.5)
    finished = load.finish()
    return start_s, sorted([*events, *finished.requests], key=lambda event: event.index), finished


def until_lost(load: NodeGenerators, events: list[RequestEvent]) -> None:
    while True:
        events += load.poll(0.5)


def test_one_schedule_is_dealt_out_among_all_processes_of_all_hosts() -> None:
    offsets_us = [place * 7_000 for place in range(120)]
    with (
        null_server(*FAST) as server,
        hosts({"a": 0, "b": AHEAD_S}) as there,
        generators(there, server, OPEN, 120, processes=2, offsets_us=offsets_us) as load,
    ):
        start_s, events, finished = all_of(load)
        assert sorted(load.started) == list(range(120))
    assert [event.index for event in events] == list(range(120))
    assert all(event.ok for event in events)
    assert [event.process for event in events] == [place % 4 for place in range(120)]
    assert [event.prompt for event in events] == [place % 3 for place in range(120)]
    for event, offset_us in zip(events, offsets_us, strict=True):
        assert event.scheduled_s == pytest.approx(start_s + offset_us / 1e6, abs=2e-6)
    assert [(one.node, one.processes) for one in finished.clients] == [("a", (0, 1)), ("b", (2, 3))]
    assert [one.process for one in finished.generators] == [0, 1, 2, 3]
    assert sum(one.tokens for one in finished.generators) == 1200


def test_another_clock_is_found_within_its_bound_and_changes_no_time_of_a_request() -> None:
    with (
        null_server(*FAST) as server,
        hosts({"ahead": AHEAD_S, "near": 0}) as there,
        generators(there, server, closed(4), 80) as load,
    ):
        start_s, events, finished = all_of(load)
    ahead, near = finished.clients
    assert abs(ahead.offset_s - AHEAD_S) <= ahead.bound_s < 0.01
    assert abs(near.offset_s) <= near.bound_s < 0.01
    assert ahead.start_there_ns - ahead.start_ns == ahead.before.offset_ns
    assert abs(ahead.drift_s) <= ahead.bound_s + ahead.bound_after_s
    waits = []
    for number in (0, 1):
        mine = [event for event in events if event.process == number]
        waits.append([(event.first_token_s or 0) - (event.sent_s or 0) for event in mine])
        assert min(event.scheduled_s for event in mine) == pytest.approx(start_s, abs=1e-6)
        # Never before the script sends it, but for the moment between the server's read and the client's stamp.
        assert min(waits[-1]) > 0.015
    assert abs(statistics.median(waits[0]) - statistics.median(waits[1])) < 0.01


def test_a_closed_loop_has_so_many_in_flight_on_all_hosts_together() -> None:
    with (
        null_server(*FAST) as server,
        hosts({"a": 0, "b": 0}) as there,
        generators(there, server, closed(5), 60, processes=2) as load,
    ):
        _, events, _ = all_of(load)
    changes = sorted(change for event in events for change in ((event.sent_s or 0.0, 1), (event.ended_s, -1)))
    at_once = most = 0
    for _, change in changes:
        at_once += change
        most = max(most, at_once)
    assert most == 5
    assert len(events) == 60


def test_hosts_serve_one_load_after_the_other_and_end_with_their_client() -> None:
    with null_server(*FAST) as server, hosts({"a": 0, "b": 0}) as there:
        for load in (closed(2), closed(3)):
            with generators(there, server, load, 12) as one:
                assert len(all_of(one)[1]) == 12
        with generators(there, server, closed(2), 1 << 40) as one:  # left in the middle
            one.start()
            assert one.poll(5)
        with generators(there, server, closed(2), 8) as one:
            assert len(all_of(one)[1]) == 8, "nothing of the load before is taken for this one's"
        there.gathering.close()
        for process in there.processes.values():
            assert process.wait(10) == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, "closed"])
def test_a_host_that_is_lost_is_named_after_what_had_ended_was_handed_on(how: signal.Signals | str) -> None:
    with null_server(*FAST) as server, hosts({"a": 0, "b": 0}) as there:
        with generators(there, server, closed(4), 1 << 40) as load:
            load.start()
            events: list[RequestEvent] = []
            while len(events) < 20:
                events += load.poll(0.5)
            if how == "closed":
                there.gathering.hosts[1].connection.shutdown(socket.SHUT_RD)
            else:
                there.processes["b"].kill()
            with pytest.raises(MachineFailure, match="client node b is lost"):
                until_lost(load, events)
        assert len({event.index for event in events}) == len(events)
        assert alive(there.processes["a"].pid)


def test_a_generator_that_dies_on_another_host_is_named() -> None:
    with (
        null_server(*FAST) as server,
        hosts({"a": 0}) as there,
        generators(there, server, closed(2), 1 << 40) as load,
    ):
        load.start()
        assert load.poll(5)
        (child,) = children_of(there.processes["a"].pid)
        os.kill(child, signal.SIGKILL)
        with pytest.raises(MachineFailure, match="load generator 0 on client node a has died: signal 9"):
            until_lost(load, [])


def test_a_generator_that_ends_well_without_its_last_word_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 0 is not enough: nobody else would say that its requests will never end."""
    monkeypatch.setattr("bench_core.client.process._MODULE", "this")  # it writes a poem, and ends well
    port = free_port()

    def of_host() -> None:
        with connected(("127.0.0.1", port), b"secret") as connection:
            Host(connection, "a").serve()

    with null_server(*FAST) as server, Gathering(("127.0.0.1", port), 1, b"secret") as gathering:
        host = threading.Thread(target=of_host)
        host.start()
        gathering.gather(lambda: False)
        with pytest.raises(MachineFailure, match="load generator 0 on client node a has died: exit code 0"):
            NodeGenerators(gathering, server.address, ENTRY, asks=asks_of(server, 1, 5), load=closed(1), total=9)
        gathering.close()
        host.join(10)
    assert not host.is_alive()


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def test_a_stop_while_hosts_are_waited_for_ends_the_waiting() -> None:
    with Gathering(("127.0.0.1", free_port()), 1, b"secret") as gathering:
        asked = threading.Event()
        threading.Timer(0.3, asked.set).start()
        gathering.gather(asked.is_set)
        assert gathering.hosts == []


def test_hosts_that_do_not_come_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench_core.client.nodes.gathering._COME_WITHIN_S", 0.2)
    with (
        Gathering(("127.0.0.1", free_port()), 2, b"secret") as gathering,
        pytest.raises(MachineFailure, match=r"0 of 2 client nodes have come within 0\.2 s: none"),
    ):
        gathering.gather(lambda: False)


def test_a_host_that_reaches_nobody_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench_core.client.nodes.host._REACHED_WITHIN_S", 0.3)
    port = free_port()
    with pytest.raises(MachineFailure, match=f":{port} cannot be reached from this host: Connection refused"):
        connected(("127.0.0.1", port), b"secret")


# --- strangers --------------------------------------------------------------------------------------------------------


def proved(client_knows: bytes, host_knows: bytes) -> tuple[bool | str, bool | str]:
    """What client and host say of each other."""
    here, there = socket.socketpair()
    found: list[bool | str] = ["", ""]

    def of_host() -> None:
        try:
            found[1] = enter(there, host_knows)
        except OSError as error:
            found[1] = str(error)
        there.close()

    thread = threading.Thread(target=of_host)
    thread.start()
    try:
        found[0] = admit(here, client_knows)
    except OSError as error:
        found[0] = str(error)
    here.close()
    thread.join()
    return found[0], found[1]


def test_only_who_knows_the_secret_is_let_in() -> None:
    assert proved(b"one", b"one") == (True, True)
    assert proved(b"one", b"other") == (False, "the other end has closed the connection")


def test_a_client_that_does_not_know_the_secret_is_given_no_host() -> None:
    """Who plays the client's part cannot know what to answer, whatever the host has said."""
    here, there = socket.socketpair()
    with here, there:
        here.sendall(secrets.token_bytes(32))

        def made_up() -> None:
            here.recv(64)
            here.sendall(secrets.token_bytes(32))

        thread = threading.Thread(target=made_up)
        thread.start()
        assert enter(there, b"secret") is False
        thread.join()


def test_strangers_at_the_clients_port_are_let_go_and_the_hosts_come() -> None:
    strangers: list[socket.socket] = []

    def knock(port: int) -> None:
        strangers.extend(socket.create_connection(("127.0.0.1", port)) for _ in range(2))
        strangers[0].sendall(b"GET / HTTP/1.1".ljust(64))  # as many bytes as a proof has
        strangers[1].close()

    with hosts({"a": 0}, first=knock) as there:
        assert [host.name for host in there.gathering.hosts] == ["a"]
        told = b""
        while piece := strangers[0].recv(64):
            told += piece
        assert len(told) == 32, "what it is to prove itself with, and nothing else"
    strangers[0].close()
