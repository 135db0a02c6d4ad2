"""An option of the protocol is declared once: the suite file, both command lines, their help texts, what a container is
handed and what a resumed run compares follow from that."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Drive

from bench_core.contract.asked.declaration import Declared, declared, fields_that_may_differ, meant_before
from bench_core.contract.asked.difference import differences
from bench_core.contract.asked.protocol import MeasureOptions, MeasureProtocol, ProtocolFields, Timeouts, WorkFields
from bench_core.contract.asked.scenario import KINDS, Offline, scenario_of_word
from bench_core.contract.records import layout
from bench_core.contract.records.spec import Assignment, CellPlan, CellSpec
from bench_core.drive import schema
from bench_core.drive.ask.options import click_option
from bench_core.drive.ask.request import Suite
from bench_core.drive.launch.launcher import Ended, Launch, LineTaker
from bench_core.drive.launch.processes.launcher import ProcessLauncher
from bench_core.drive.run import assignment as handing
from bench_core.worker.by_hand import Options, build_parser

QUICK = ("--images", "null", "--device", "cpu", "--launcher", "process", "--samples", "8", "--max-new-tokens", "2")
FAST = ("--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.001", "--option", "null.load_s=0")
COMMON = {option.name: option for option in declared(MeasureOptions)}


def _help(room: str) -> str:
    """With every run of blanks as one."""
    command = [sys.executable, "-m", f"bench_core.{room}", "--help"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return " ".join(ran.stdout.replace("-\n", "-").split())


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    return {room: _help(room) for room in ("drive", "worker")}


def _plain(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("record", [Suite, Options], ids=["drive", "worker"])
def test_a_help_text_says_of_every_option_what_its_declaration_says(
    helps: dict[str, str], record: type[Suite] | type[Options]
) -> None:
    told = _plain(helps["drive" if record is Suite else "worker"])
    for option in declared(record):
        assert option.flag in told, option.name
        assert option.description, f"{option.name} has no words"
        assert _plain(option.words) in told, option.name


@pytest.mark.parametrize("option", COMMON.values(), ids=COMMON)
def test_both_command_lines_and_the_suite_file_have_the_same_option(option: Declared) -> None:
    schema_file = next(path for path in schema.SCHEMAS if path.name == "suite.schema.json")
    kept = json.loads(schema_file.read_text(encoding="utf-8"))["properties"][option.name]
    assert kept["description"] == option.description
    by_name = [{found.name: found for found in declared(record)}[option.name] for record in (Suite, Options)]
    for found in by_name:
        assert (found.flag, found.kind, found.description) == (option.flag, option.kind, option.description)
        limits = [(found.at_least, found.at_most, found.above, found.below), (option.at_least, option.at_most)]
        assert limits[0][:2] == limits[1]
        assert found.default == option.default or option.name == "max_new_tokens", "64 for a run, 200 for one by hand"
    bounds = kept.get("anyOf", [kept])[0]
    bounds = bounds.get("items", bounds)
    wanted = {"minimum": option.at_least, "maximum": option.at_most}
    wanted |= {"exclusiveMinimum": option.above, "exclusiveMaximum": option.below}
    assert {key: bounds.get(key) for key in wanted} == wanted


# Modules that hand options on, and which of them each means alone.
HANDING_ON: dict[str, set[str]] = {
    "drive/ask/cli.py": set(),
    "drive/ask/options.py": set(),
    "drive/ask/request.py": set(),
    "drive/ask/words.py": set(),
    "drive/launch/launcher.py": set(),
    "drive/plan/resume.py": {"max_warmup_batches", "precision"},  # of before there were rules
    "drive/run/assignment.py": set(),
    "drive/run/execute.py": set(),
    "drive/material/material.py": set(),
    "drive/run/session.py": set(),
    "contract/asked/arguments.py": set(),
    "worker/by_hand.py": {"direct_batches"},  # refused where an image has no such call
    "worker/cli.py": set(),
    "worker/launch.py": set(),
    "worker/resolve.py": set(),
    "worker/supervise/cells.py": {"score_texts"},  # asked for last, by itself
    "worker/supervise/session.py": set(),
    "worker/supervise/supervisor.py": set(),
}


@pytest.mark.parametrize("name", HANDING_ON)
def test_an_option_stands_in_one_file_of_code(name: str) -> None:
    """No list of options by hand beside the declaration: none is named where none of them is meant alone."""
    text = (ROOT / "bench_core" / name).read_text(encoding="utf-8")
    assert {field for field in ProtocolFields.model_fields if re.search(rf"\b{field}\b", text)} == HANDING_ON[name]


def test_a_new_option_needs_its_declaration_alone(tmp_path: Path) -> None:
    """A copy of the protocol with one field more: the suite's record, the options of both command lines, the cell's
    protocol, what older records mean and what is compared when resuming have it."""
    source = Path(inspect.getfile(MeasureOptions)).read_text(encoding="utf-8")
    added = (
        "    rest_seconds: Annotated[float | None, Before(0.0)] = Field(\n"
        '        0.5, ge=0, le=60, description="pause between two batches, seconds"\n    )\n'
    )
    path = tmp_path / "protocol_with_more.py"
    path.write_text(source.replace("    warmup_batches: int", f"{added}    warmup_batches: int", 1), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("protocol_with_more", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["protocol_with_more"] = module
    try:
        spec.loader.exec_module(module)
        option = next(found for found in declared(module.MeasureOptions) if found.name == "rest_seconds")
        assert (option.flag, option.kind, option.at_most) == ("--rest-seconds", "float", 60)
        assert option.words == "pause between two batches, seconds  [default: 0.5]"
        asked = module.MeasureOptions(rest_seconds=2.0)
        cell = asked.protocol_of(Offline(batch_size=1), "cpu", first=True)
        assert cell.rest_seconds == 2.0
        before = module.MeasureProtocol.model_validate({"warmup_batches": 1})
        assert before.rest_seconds == 0.0
        kept = module.MeasureProtocol.model_validate_json(cell.model_dump_json())
        assert list(differences(kept, cell)) == []
        assert ("rest_seconds", 0.0, 2.0) in list(differences(before, cell))
        assert cell.as_asked["rest_seconds"] == 2.0
    finally:
        del sys.modules["protocol_with_more"]


def test_what_may_differ_is_declared_with_the_fields() -> None:
    assert fields_that_may_differ(MeasureProtocol) == {"direct_batches", "direct_rounds", "score_texts", "busy"}
    of_new_cells = {"direct_batches", "direct_rounds", "direct_batch_sizes", "score_texts", "control", "artifacts"}
    assert fields_that_may_differ(Suite) == of_new_cells | {"slo", "compare_on_one_gpu", "beside_sample"}
    one = MeasureProtocol(score_texts=3, direct_batches=2, precision=0.01)
    other = MeasureProtocol(score_texts=0, precision=0.02, max_seconds=1.0)
    assert list(differences(one, other)) == [("precision", 0.01, 0.02), ("max_seconds", None, 1.0)]


def test_a_record_without_a_key_means_what_it_meant() -> None:
    assert meant_before(MeasureProtocol).keys() == {
        "max_warmup_batches",
        "max_warmup_seconds",
        "precision",
        "score_texts",
    }
    old = MeasureProtocol.model_validate_json('{"warmup_batches": 1, "latency_batches": 3, "max_batches": null}')
    assert (old.precision, old.max_warmup_batches, old.score_texts, old.busy) == (None, None, 0, None)
    assert Suite(**old.as_asked).protocol.in_effect.model_dump(exclude={"busy"}) == old.model_dump(exclude={"busy"})


# --- the union of scenarios -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["b1", "b16", "b65536"])
def test_a_scenario_is_what_its_word_says(word: str) -> None:
    scenario = scenario_of_word(word)
    assert scenario is not None
    assert scenario.word == word


@pytest.mark.parametrize("word", ["b0", "b", "16", "b65537", "b1 ", "b01", "c0", "r", "r0", "x4", ""])
def test_what_is_no_scenarios_word_is_none(word: str) -> None:
    assert scenario_of_word(word) is None


def test_kinds_differ_in_their_discriminator_and_their_words() -> None:
    kinds = [kind.model_fields["kind"].default for kind in KINDS]
    assert len(set(kinds)) == len(kinds) > 0


# --- one file from the driver to the worker ---------------------------------------------------------------------------


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Launch, Assignment | None]]:
    """Every launch, with what it was handed, as it lay there."""
    found: list[tuple[Launch, Assignment | None]] = []
    run = ProcessLauncher.run

    def watched(self: ProcessLauncher, launch: Launch, on_stdout: LineTaker) -> Ended:
        words, assignment = launch.arguments, None
        if "--assignment" in words and launch.folders.data is not None:
            assignment = Assignment.read(launch.folders.data / words[words.index("--assignment") + 1])
        found.append((launch, assignment))
        return run(self, launch, on_stdout)

    monkeypatch.setattr(ProcessLauncher, "run", watched)
    return found


def _plan_of(spec: CellSpec) -> CellPlan:
    return CellPlan.model_validate({name: getattr(spec, name) for name in CellPlan.model_fields})


def test_a_worker_measures_what_the_driver_has_planned(
    drive: Drive, tmp_path: Path, handed: list[tuple[Launch, Assignment | None]]
) -> None:
    """Each cell's ``spec.json`` is the plan that its container was handed, with what only the container can tell."""
    asked = (
        "--batch-sizes",
        "1,4",
        "--score-texts",
        "2",
        "--max-batches",
        "3",
        "--max-seconds",
        "60",
        "--repeats",
        "2",
    )
    limits = ("--batch-timeout-s", "77", "--threads", "1", "--busy-cpus", "3", "--latency-batches", "2")
    called = drive(*QUICK, *FAST, *asked, *limits, "--run-id", "mine")
    assert called.code == 0, called.err
    run = tmp_path / "results" / "mine"
    planned = {cell.cell_id: cell for _, assignment in handed if assignment for cell in assignment.cells}
    specs = {spec.cell_id: spec for path in run.glob("cells/*/spec.json") for spec in [CellSpec.read(path)]}
    ours = {f"null.scripted.b{size}{repeat}" for size in (1, 4) for repeat in ("", ".r2")}
    assert planned.keys() == specs.keys() == {*ours, "null.harness.b1", "null.harness.b4"}
    for name, spec in specs.items():
        assert _plan_of(spec) == planned[name]
        assert spec.threads == 1
    protocols = {name: specs[name].protocol for name in ours}
    assert [protocols["null.scripted.b1"].score_texts, protocols["null.scripted.b4"].score_texts] == [2, 0]
    assert {(p.max_batches, p.max_seconds, p.latency_batches) for p in protocols.values()} == {(3, 60.0, 2)}
    busy = [protocol.busy for protocol in protocols.values()]
    assert {rule.cpus for rule in busy if rule is not None} == {3.0}
    assert {a.timeouts for _, a in handed if a} == {Timeouts(batch_timeout_s=77.0)}
    for launch, _ in handed:
        words = " ".join(launch.arguments)
        of_cells = [option.flag for option in COMMON.values() if f"{option.flag} " in words]
        assert of_cells in ([], ["--device", "--threads"]), "those are of a device that is measured, and of no cell"
    assert list((tmp_path / "data").glob(f"{layout.ASSIGNMENT}*")) == [], "nothing is left"


def test_the_workers_own_command_line_makes_the_same_cells(drive: Drive, tmp_path: Path) -> None:
    """The driver's file and options given by hand lead to equal specs."""
    common = (
        *("--warmup-batches", "2", "--precision", "0.2", "--length", "forced", "--max-seconds", "30"),
        *("--score-texts", "1", "--threads", "1", "--latency-batches", "2", "--max-new-tokens", "2"),
        *("--busy-cpus", "5"),
    )
    assert drive(*QUICK, *FAST, *common, "--batch-sizes", "1,2", "--run-id", "mine").code == 0
    folders = [f"--{name}={tmp_path / name}" for name in ("results", "data", "models")]
    (workload,) = (tmp_path / "data" / layout.WORKLOADS_FOLDER).glob("*.json")
    (model,) = (path.parent.name for path in (tmp_path / "models").glob(f"*/{layout.MODEL_FILE}"))
    folders += ["--workload", str(workload), "--model-folder", model]
    by_hand = [text.replace("null.", "") for text in FAST]
    command = [sys.executable, "-m", "bench_core.worker", *folders, "--image-folder", str(ROOT / "images" / "null")]
    command += [*by_hand, *common, "--device", "cpu", "--batch-size", "1,2", "--run-id", "hand"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for size in (1, 2):
        one, other = (
            CellSpec.read(layout.cell_folder(tmp_path / "results" / run, f"null.scripted.b{size}") / layout.SPEC_FILE)
            for run in ("mine", "hand")
        )
        assert one == other


def test_files_of_drivers_that_have_ended_are_cleared_and_others_are_not(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    pid = ended.stdout.decode().strip()
    owners = (handing._owner(pid), handing._owner(1), f"another-host-{pid}")
    dead, living, elsewhere = (tmp_path / f"{layout.ASSIGNMENT}.{owner}.00.json" for owner in owners)
    for path in (dead, living, elsewhere):
        path.write_text("{}", encoding="utf-8")
    handing.clear_left_over(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([living, elsewhere])


def test_every_heading_of_the_help_is_a_record_that_declares_options() -> None:
    origins = {option.origin for option in declared(Options)}
    assert {WorkFields, ProtocolFields, MeasureOptions, Timeouts} < origins


def test_a_choice_among_numbers_is_a_number_on_both_command_lines() -> None:
    """A command line has words; the record wants one of its numbers."""
    parsed = build_parser().parse_args(["--ttft-percentile", "95"])
    assert parsed.ttft_percentile == 95
    [option] = [option for option in declared(Suite) if option.name == "ttft_percentile"]
    assert click_option(option).type.convert("95", None, None) == 95
