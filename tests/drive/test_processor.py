"""What a host's processor is called, on machines that Linux names it for and on those that lscpu must be asked for."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from bench_core.system import processor
from bench_core.system.machine import host_info

FLAT = [{"field": "Architecture:", "data": "aarch64"}, {"field": "Model name:", "data": "Neoverse-N1"}]
NESTED = [
    {
        "field": "Vendor ID:",
        "data": "ARM",
        "children": [
            {"field": "Model name:", "data": "Cortex-A55", "children": [{"field": "Model:", "data": "0"}]},
            {"field": "Model name:", "data": "Cortex-A76", "children": None},
            {"field": "Model name:", "data": "Cortex-A55"},
        ],
    },
    {"field": "BIOS Model name:", "data": "not this"},
]


@pytest.mark.parametrize(
    ("fields", "names"),
    [(FLAT, ["Neoverse-N1"]), (NESTED, ["Cortex-A55", "Cortex-A76"]), ([{"field": "Model name:", "data": "-"}], [])],
)
def test_names_are_read_from_flat_and_nested_answers(fields: object, names: list[str]) -> None:
    assert processor.models_in(json.dumps({"lscpu": fields})) == names


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"lscpu": 3}', '{"lscpu": [3, null]}', "lscpu: bad usage"])
def test_what_is_no_answer_names_nothing(text: str) -> None:
    assert processor.models_in(text) == []


@pytest.fixture
def unnamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A host whose /proc/cpuinfo has no name, and a folder that is all of PATH."""
    nameless = host_info().model_copy(update={"cpu": platform.machine()})
    monkeypatch.setattr(processor, "host_info", lambda: nameless)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def _lscpu(folder: Path, text: str) -> None:
    (folder / "lscpu").write_text(f"#!/bin/sh\necho '{text}'\n", encoding="utf-8")
    (folder / "lscpu").chmod(0o755)


def test_an_unnamed_processor_is_called_as_lscpu_calls_it(unnamed: Path) -> None:
    _lscpu(unnamed, json.dumps({"lscpu": NESTED}))
    assert processor.this_host().cpu == "Cortex-A55 + Cortex-A76"


def test_without_lscpu_or_an_answer_it_is_the_machines_type(unnamed: Path) -> None:
    assert processor.this_host().cpu == platform.machine()
    _lscpu(unnamed, "no JSON")
    assert processor.this_host().cpu == platform.machine()


def test_where_linux_names_it_nothing_is_asked(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that names in records of before stay what they are."""
    _lscpu(unnamed, json.dumps({"lscpu": FLAT}))
    named = host_info().model_copy(update={"cpu": "Xeon"})
    monkeypatch.setattr(processor, "host_info", lambda: named)
    assert processor.this_host() == named


def test_a_record_that_names_no_more_than_the_machines_type_fits_any_name() -> None:
    """A run on an ARM host that was begun before names were asked for goes on there."""
    assert processor.as_meant(platform.machine(), "Neoverse-N1") == "Neoverse-N1"
    assert processor.as_meant("Neoverse-V2", "Neoverse-N1") == "Neoverse-V2"
