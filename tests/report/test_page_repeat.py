"""The command that a page says for measuring a cell again asks for that cell, and for no other."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_runs import VLLM, Script, write_run
from serving_runs import FAST, LoadScript, write_loaded

from bench_core.drive.ask import cli
from bench_core.report.page.repeat import repeat_command
from bench_core.runs.load import load_run
from bench_core.runs.view import RunView


def _asked(view: RunView, place: int = 0) -> dict[str, Any]:
    """What the driver reads of the command for a cell: the options that it gives."""
    words = shlex.split(repeat_command(view, view.record.cells[place]))
    assert words[:3] == ["python", "-m", "bench_core.drive"]
    read: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["drive", *words[3:]])
        patch.setattr(cli, "drive", lambda _, **values: read.update(values))
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 0
    return {name: value for name, value in read.items() if value}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("c4", {"concurrency": (4,)}),
        ("r0_5", {"request_rate": (0.5,), "arrivals": "poisson"}),
        ("r1234_567-constant", {"request_rate": (1234.567,), "arrivals": "constant"}),
    ],
)
def test_a_load_point_is_asked_for_as_it_was(tmp_path: Path, word: str, expected: dict[str, Any]) -> None:
    # Fast enough for any rate; in a closed loop it would only answer more.
    engine = FAST if word == "c4" else replace(FAST, ttft_s=1e-4, tpot_s=1e-5)
    view = load_run(write_loaded(tmp_path, LoadScript(engines=(engine,), loads=(word,))))
    asked = _asked(view)
    assert {
        name: asked.get(name) for name in ("concurrency", "request_rate", "arrivals", "batch_sizes") if name in asked
    } == expected
    assert asked["variants"] == ("vllm.fp16",)
    assert asked["launcher"] == "docker"


def test_what_a_load_and_a_model_were_made_of_is_asked_for_too(tmp_path: Path) -> None:
    """A shared prefix, and GPUs that the model is split over."""
    view = load_run(write_run(tmp_path, Script((VLLM,), batch_sizes=(4,))))
    plain = _asked(view)
    assert plain["batch_sizes"] == (4,)
    assert not plain.keys() & {"shared_prefix_tokens", "gpus_per_cell"}
    record = view.record
    cells = tuple(cell.model_copy(update={"gpus": 2}) for cell in record.cells)
    workload = record.workload.model_copy(update={"shared_prefix_tokens": 64})
    changed = _asked(replace(view, record=record.model_copy(update={"cells": cells, "workload": workload})))
    assert (changed["shared_prefix_tokens"], changed["gpus_per_cell"]) == (64, 2)


def test_of_a_run_by_hand_the_driver_chooses_how_engines_are_started(tmp_path: Path) -> None:
    view = load_run(write_run(tmp_path, Script((VLLM,), batch_sizes=(4,))))
    by_hand = replace(view, record=view.record.model_copy(update={"launcher": "standalone"}))
    assert "launcher" not in _asked(by_hand)
