"""Waiting for a Docker engine has an end, and a slow one is not taken for a dead one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from bench_core.contract.errors import BadInput
from bench_core.drive.launch.containers.pulse import PATIENCE_S, EngineSilent, Pulse, followed, patience_s


def fine() -> None:
    """An engine that answers."""


def test_an_engine_that_answers_is_waited_for() -> None:
    with Pulse(lambda: True, 0.3) as pulse:
        time.sleep(0.9)
        pulse.check()


def test_one_that_does_not_is_silent_after_the_limit_and_not_before() -> None:
    hung = threading.Event()
    with Pulse(lambda: hung.wait(10), 0.4) as pulse:
        pulse.check()
        time.sleep(0.6)
        with pytest.raises(EngineSilent, match="no answer for"):
            pulse.check()
        pulse.check(5.0)
        hung.set()


def test_an_error_is_no_answer() -> None:
    def refuse() -> None:
        raise ConnectionRefusedError

    with Pulse(refuse, 0.2) as pulse:
        time.sleep(0.4)
        with pytest.raises(EngineSilent):
            pulse.check()


def test_a_stream_is_handed_on_whole_and_in_order() -> None:
    assert list(followed(lambda: iter(range(10_000)), fine)) == list(range(10_000))


def test_what_a_stream_raises_is_raised() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ConnectionResetError("gone")

    pieces = followed(broken, fine)
    assert next(pieces) == 1
    with pytest.raises(ConnectionResetError, match="gone"):
        next(pieces)


def test_a_stream_that_stops_without_an_end_is_left() -> None:
    hung = threading.Event()

    def stuck() -> Iterator[int]:
        yield 1
        hung.wait(30)

    def check() -> None:
        raise EngineSilent("no answer")

    pieces = followed(stuck, check)
    assert next(pieces) == 1
    with pytest.raises(EngineSilent):
        next(pieces)
    hung.set()


@pytest.mark.parametrize("text", ["0", "-5", "soon", "nan", "inf", "1e9"])
def test_a_patience_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DOCKER_PATIENCE_S", text)
    with pytest.raises(BadInput, match="BENCH_DOCKER_PATIENCE_S"):
        patience_s()


def test_the_patience_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_DOCKER_PATIENCE_S", raising=False)
    assert patience_s() == PATIENCE_S
    monkeypatch.setenv("BENCH_DOCKER_PATIENCE_S", "7.5")
    assert patience_s() == 7.5
