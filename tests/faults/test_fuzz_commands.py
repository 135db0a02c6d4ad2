"""``verify``, ``report`` and ``--resume`` end with a code and words, whatever number stands in a file of the run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from fuzz_commands import LITERALS, Commands, fuzz, put_last, whole_run

from bench_core.contract.records import layout

COMMANDS = ("verify", "report", "resume")
CELL = Path(layout.CELLS_FOLDER) / "null.scripted.b4"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_run(tmp_path_factory.mktemp("made") / "results")


@pytest.fixture
def commands(run: Path, tmp_path: Path) -> Commands:
    return Commands(run, tmp_path)


def test_commands_on_runs_with_numbers_that_nobody_measures(run: Path, tmp_path: Path) -> None:
    """`make fuzz` reads 500."""
    counts, found = fuzz({"verify": 30, "report": 8, "resume": 6}, 20261129, run, tmp_path)
    assert found == []
    assert sum(counts.values()) == 44
    assert sum(count for line, count in counts.items() if not line.endswith("code 0")) > 10, "damage that nothing sees"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("literal", [b"9223372036854775808", b"-9223372036854775809", b"9" * 400, b"9" * 5000])
def test_a_token_id_above_63_bits(command: str, literal: bytes, commands: Commands, run: Path) -> None:
    """Of an event log: the cell is damaged, with file, line and key; resumed, it is measured again."""
    code, words = commands.on(command, run, lambda copy: put_last(copy / CELL / layout.EVENTS_FILE, literal, "outputs"))
    if command == "verify":
        assert code == 1
        place = f"differs: {CELL}/{layout.EVENTS_FILE}:"
        found = re.search(rf"^{re.escape(place)}(\d+): {CELL.name}: (.*)$", words, re.MULTILINE)
        assert found is not None, words
        assert int(found[1]) > 1
        assert "batch.outputs." in found[2] or "number out of range" in found[2]
    else:
        assert code == 0
    assert "Traceback" not in words


@pytest.mark.parametrize("command", COMMANDS)
def test_a_plan_with_a_number_above_63_bits_is_no_run(command: str, commands: Commands, run: Path) -> None:
    code, words = commands.on(command, run, lambda copy: put_last(copy / layout.RUN_FILE, b"9" * 30, "vocab_size"))
    assert code == 2
    assert f"{layout.RUN_FILE}: model.vocab_size: " in words


def test_every_kind_of_literal_is_put_where_a_number_was(run: Path, tmp_path: Path) -> None:
    for literal in (literal for kind in LITERALS for literal in kind):
        path = tmp_path / "run.json"
        shutil.copy(run / layout.RUN_FILE, path)
        put_last(path, literal, "vocab_size")
        text = path.read_bytes()
        assert b'"vocab_size": ' + literal in text
        if literal in (b"0", b"-1", b"1e30"):
            json.loads(text)
