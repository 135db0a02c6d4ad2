"""Streams from a box are cut into lines within bounds."""

from __future__ import annotations

import os
import tempfile
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_core.drive.launch.processes.wheels import package_source
from bench_core.system.lines import MAX_LINE_BYTES, LineSplitter, Tail


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_lines_do_not_depend_on_how_the_stream_was_cut(pieces: list[bytes]) -> None:
    lines: list[bytes] = []
    splitter = LineSplitter(lines.append)
    for piece in pieces:
        splitter.feed(piece)
    splitter.end()
    whole = b"".join(pieces).split(b"\n")
    assert lines == (whole if whole[-1] else whole[:-1])


def test_a_line_without_end_is_bounded() -> None:
    lines: list[bytes] = []
    splitter = LineSplitter(lines.append)
    for _ in range(50):
        splitter.feed(b"x" * (1 << 20))
    splitter.feed(b"\nnext\n")
    assert [len(line) for line in lines] == [MAX_LINE_BYTES, 4]


def test_a_tail_keeps_the_end() -> None:
    tail = Tail(limit_bytes=100)
    for number in range(1000):
        tail.feed(b"%d\n" % number)
    assert tail.text().endswith("998\n999\n")
    assert len(tail.text()) <= 100


def test_a_folder_of_wheels_is_served_to_builds_at_a_stable_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # builds that go on hold another lock
    (tmp_path / "a-1-py3-none-any.whl").write_bytes(b"wheel")
    monkeypatch.setattr(os, "environ", {"PIP_FIND_LINKS": str(tmp_path), "PIP_NO_INDEX": "1", "HOME": "/nowhere"})
    addresses = []
    for _ in range(2):
        with package_source() as source:
            assert source.network == "host"
            assert set(source.build_arguments) == {"PIP_FIND_LINKS", "PIP_NO_INDEX"}
            addresses.append(source.build_arguments["PIP_FIND_LINKS"])
            with urllib.request.urlopen(addresses[-1] + "a-1-py3-none-any.whl") as answer:
                assert answer.read() == b"wheel"
    assert addresses[0] == addresses[1]


def test_an_ordinary_machine_builds_on_the_default_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "environ", {})
    with package_source() as source:
        assert source.network is None
        assert source.build_arguments == {}
