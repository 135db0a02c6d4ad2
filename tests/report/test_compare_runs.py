"""Runs beside each other: what is planted is found, what is not there is not, and nothing is left out in silence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Drive
from make_large_run import Noise, make_large_run
from report_runs import GPU, Method, Script, measured, read_log, write_log, write_run
from serving_runs import FAST, SLOW, LoadScript, write_loaded

from bench_core.compare.cli import app
from bench_core.compare.comparison import Asked, Comparison, Line, compare, needed
from bench_core.compare.quantities import bounds_of, chosen
from bench_core.compare.read import read_side, read_versions
from bench_core.compare.tables import head
from bench_core.compare.verdict import Verdict
from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.run import EngineVersion, RunRecord
from bench_core.report.together.equal import facts_of
from bench_core.report.together.group import NamedRun, groups_of
from bench_core.runs.load import load_run

CELLS, BATCHES = 4, 40
# As of an engine on a GPU that behaves: 1 % from batch to batch, 0.3 % from start to start.
USUAL = Noise(batches=0.01, cells=0.003)
SPEED = "throughput,ttft,tpot"


def asked(words: str = "", allowed: str = "", starts: float = 0.0, bound: str = "3%") -> Asked:
    return Asked(chosen(words), bounds_of(bound), frozenset(filter(None, allowed.split(","))), starts)


def between(old: Path, new: Path, how: Asked | None = None) -> Comparison:
    return compare(read_side(old), read_side(new), how or asked())


def trial(home: Path, seed: int, noise: Noise) -> Comparison:
    """A run and one with that noise and slowdown, of other seeds."""
    for name, own_seed, own in (("old", 2 * seed, replace(noise, slower=0.0)), ("new", 2 * seed + 1, noise)):
        make_large_run(home / str(seed) / name, CELLS, BATCHES, own_seed, noise=own)
    return between(home / str(seed) / "old", home / str(seed) / "new", asked(SPEED))


def verdicts(home: Path, noise: Noise) -> list[Verdict]:
    return [trial(home, seed, noise).verdict for seed in range(20)]


def lines(found: Comparison, verdict: Verdict) -> list[Line]:
    return [line for line in found.lines if line.verdict is verdict]


def only(found: Comparison, cell: str) -> Line:
    """The one line of a cell that has no quantity."""
    return next(line for line in found.lines if line.cell == cell and line.quantity is None)


# --- sixty seeded trials ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_planted_slowdown_of_5_percent_fails(tmp_path: Path) -> None:
    assert verdicts(tmp_path, replace(USUAL, slower=0.05)).count(Verdict.FAIL) >= 19


@pytest.mark.slow
def test_a_planted_slowdown_of_half_a_percent_never_fails(tmp_path: Path) -> None:
    found = verdicts(tmp_path, replace(USUAL, slower=0.005))
    assert found.count(Verdict.FAIL) == 0
    assert found.count(Verdict.PASS) >= 15  # nor is everything left open


@pytest.mark.slow
def test_noise_of_10_percent_leaves_a_slowdown_of_3_percent_open_and_says_how_long_it_would_take(
    tmp_path: Path,
) -> None:
    noise = Noise(batches=0.10, cells=0.003, slower=0.03)
    found = [trial(tmp_path, seed, noise) for seed in range(20)]
    assert [one.verdict for one in found].count(Verdict.INCONCLUSIVE) >= 19
    for line in (line for one in found for line in lines(one, Verdict.INCONCLUSIVE)):
        told = needed(line)
        assert told is not None
        assert line.pair is not None
        seconds, batches, repeats = told
        assert seconds > line.pair.measured_s
        assert batches > line.pair.batches
        assert repeats == 1


@pytest.mark.slow
def test_what_it_says_that_it_would_take_suffices(tmp_path: Path) -> None:
    """With so many batches as were asked for, most of what was open is told."""
    noise = Noise(batches=0.03, cells=0.0)
    for name, seed in (("a", 1), ("b", 2)):
        make_large_run(tmp_path / name, 6, 12, seed, noise=noise)
    first = between(tmp_path / "a", tmp_path / "b", asked("throughput"))
    left = lines(first, Verdict.INCONCLUSIVE)
    assert left
    batches = max(told[1] for line in left if (told := needed(line)) is not None)
    for name, seed in (("c", 3), ("d", 4)):
        make_large_run(tmp_path / name, 6, batches, seed, noise=noise)
    again = between(tmp_path / "c", tmp_path / "d", asked("throughput"))
    assert again.count(Verdict.PASS) >= 5


@pytest.mark.slow
def test_repeats_count_what_starts_differ_by(tmp_path: Path) -> None:
    """Starts that are 4 % apart: with batches alone this is told to be a change, with repeats it is not."""
    noise = Noise(batches=0.002, cells=0.04)
    failed_alone = failed_repeated = 0
    for seed in range(10):
        for name, own in (("old", 2 * seed), ("new", 2 * seed + 1)):
            make_large_run(tmp_path / f"{seed}{name}", CELLS, 10, own, noise=noise, repeats=3)
        old, new = (read_side(tmp_path / f"{seed}{name}") for name in ("old", "new"))
        found = compare(old, new, asked("throughput"))
        assert all(line.change is not None and line.change.repeats for line in found.lines)
        failed_repeated += found.verdict is Verdict.FAIL
        alone = [
            replace(side, cells={k: replace(cell, repeats=cell.repeats[:1]) for k, cell in side.cells.items()})
            for side in (old, new)
        ]
        failed_alone += compare(alone[0], alone[1], asked("throughput")).verdict is Verdict.FAIL
        known = compare(alone[0], alone[1], asked("throughput", starts=0.04))
        assert known.verdict is not Verdict.FAIL
    assert failed_alone >= 5
    assert failed_repeated == 0


# --- cells that are not compared --------------------------------------------------------------------------------------

VLLM = Method("vllm", "fp16", "vLLM 16-bit")
OTHER = Method("exllama", "gptq", "ExLlama 4-bit")
SCRIPT = Script(methods=(VLLM, OTHER), batches=8)


def _write(home: Path, script: Script) -> Path:
    return write_run(home, script)


def test_the_same_run_twice_does_not_fail_and_every_cell_has_its_lines(tmp_path: Path) -> None:
    run = _write(tmp_path, SCRIPT)
    found = between(run, run)
    assert lines(found, Verdict.FAIL) == []
    assert {line.cell for line in found.lines} == {
        f"{m}.b{size}" for m in ("vllm.fp16", "exllama.gptq") for size in (1, 4)
    }
    assert all(line.change is not None and line.change.log == 0.0 for line in found.lines)


def test_a_cell_that_is_missing_from_the_new_run_is_open_and_one_that_it_adds_is_a_note(tmp_path: Path) -> None:
    both = _write(tmp_path / "both", SCRIPT)
    one = _write(tmp_path / "one", replace(SCRIPT, methods=(VLLM,)))
    found = between(both, one)
    assert only(found, "exllama.gptq.b4").verdict is Verdict.INCONCLUSIVE
    assert found.verdict is Verdict.INCONCLUSIVE
    back = between(one, both)
    assert only(back, "exllama.gptq.b4").verdict is Verdict.NOTE
    assert "not in" in only(back, "exllama.gptq.b4").judged.cause


def test_a_cell_that_fails_in_the_new_run_fails_and_one_that_failed_in_the_old_is_a_note(tmp_path: Path) -> None:
    good = _write(tmp_path / "good", SCRIPT)
    dies = {4: (Outcome.OOM_KV, "out of memory")}
    bad = _write(tmp_path / "bad", replace(SCRIPT, methods=(replace(VLLM, dies=dies), OTHER)))
    found = between(good, bad)
    assert found.verdict is Verdict.FAIL
    assert [line.cell for line in lines(found, Verdict.FAIL)] == ["vllm.fp16.b4"]
    assert "oom_kv: out of memory" in only(found, "vllm.fp16.b4").judged.cause
    assert only(between(bad, good), "vllm.fp16.b4").verdict is Verdict.NOTE
    assert only(between(bad, bad), "vllm.fp16.b4").verdict is Verdict.NOTE


def test_where_nothing_has_numbers_nothing_passes(tmp_path: Path) -> None:
    dies = dict.fromkeys((1, 4), (Outcome.OOM_KV, "out of memory"))
    bad = _write(tmp_path, replace(SCRIPT, methods=(replace(VLLM, dies=dies),)))
    found = between(bad, bad)
    assert {line.verdict for line in found.lines} == {Verdict.NOTE}
    assert found.verdict is Verdict.INCONCLUSIVE
    assert head(found).endswith("nothing was compared")


def test_a_cell_that_was_stopped_or_never_reached_is_open(tmp_path: Path) -> None:
    good = _write(tmp_path / "good", SCRIPT)
    stopped = replace(VLLM, dies={1: (Outcome.KILLED, "stopped on request")}, unreached=(4,))
    found = between(good, _write(tmp_path / "bad", replace(SCRIPT, methods=(stopped, OTHER))))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "stopped: on request" in only(found, "vllm.fp16.b1").judged.cause
    assert "not run" in only(found, "vllm.fp16.b4").judged.cause


def test_a_cell_of_unequal_work_is_open_and_says_so(tmp_path: Path) -> None:
    good, bad = (_write(tmp_path / name, SCRIPT) for name in ("good", "bad"))
    folder = layout.cell_folder(bad, "vllm.fp16.b4")
    events = read_log(folder)
    measured(events)[0]["outputs"][0] = measured(events)[0]["outputs"][0][:-1]
    measured(events)[0]["arrivals"] = None
    write_log(folder, events)
    found = only(between(good, bad), "vllm.fp16.b4")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "not ranked" in found.judged.cause


def test_a_damaged_cell_is_open(tmp_path: Path) -> None:
    good, bad = (_write(tmp_path / name, SCRIPT) for name in ("good", "bad"))
    (layout.cell_folder(bad, "vllm.fp16.b4") / layout.EVENTS_FILE).write_text("{}\n")
    found = only(between(good, bad), "vllm.fp16.b4")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "damaged" in found.judged.cause


# --- runs that are not compared ---------------------------------------------------------------------------------------


def _changed(home: Path, change: Callable[[RunRecord], dict[str, object]]) -> tuple[Path, Path]:
    """A run, and the same with another run.json."""
    one, other = home / "one", home / "other"
    make_large_run(one, 2, 6, 1)
    shutil.copytree(one, other)
    record = RunRecord.read(other / layout.RUN_FILE)
    (other / layout.RUN_FILE).write_text(record.model_copy(update=change(record)).to_json())
    return one, other


def test_another_gpu_is_refused_or_compared_with_a_warning(tmp_path: Path) -> None:
    card = GPU.model_copy(update={"name": "NVIDIA A100-SXM4-80GB"})
    one, other = _changed(tmp_path, lambda record: {"gpus": (card,)})
    with pytest.raises(BadInput, match="gpu is NVIDIA H100 80GB HBM3, and NVIDIA A100-SXM4-80GB") as refused:
        between(one, other)
    assert "--allow-different gpu" in refused.value.hint
    found = between(one, other, asked(allowed="gpu"))
    assert any("NVIDIA A100" in warning for warning in found.warnings)
    assert {line.verdict for line in found.lines if line.quantity and line.quantity.name == "throughput"} == {
        Verdict.PASS
    }


def test_the_same_prompts_and_model_are_known_by_their_digests(tmp_path: Path) -> None:
    """One run had the dataset from the hub, the other as a file; one the model by its id, the other a folder."""

    def renamed(record: RunRecord) -> dict[str, object]:
        return {
            "workload": record.workload.model_copy(update={"name": "stories.jsonl"}),
            "model": record.model.model_copy(update={"name": "my-folder"}),
        }

    one, other = _changed(tmp_path, renamed)
    found = between(one, other)
    assert not found.warnings
    (group,) = groups_of([NamedRun(path.name, load_run(path)) for path in (one, other)])
    facts = {fact.title: fact for fact in facts_of(group.runs)}
    for title in ("Workload", "Model"):
        assert facts[title].words == "equal"
        assert len(set(facts[title].values)) == 2, "each is shown as its run has it"


def test_another_length_is_refused(tmp_path: Path) -> None:
    make_large_run(tmp_path / "one", 2, 6, 1)
    with pytest.raises(BadInput, match=r"workload is .* lengths is forced, 8 new tokens, and forced, 20 new tokens"):
        between(tmp_path / "one", _write(tmp_path / "other", SCRIPT))


def test_another_engine_version_is_what_it_is_for(tmp_path: Path) -> None:
    make_large_run(tmp_path / "one", 2, 6, 1, version="1.0")
    make_large_run(tmp_path / "two", 2, 6, 1, version="2.0")
    found = between(tmp_path / "one", tmp_path / "two", asked("throughput"))
    assert found.verdict is Verdict.PASS
    versions = [next(iter(side.cells.values())).versions["null"] for side in (found.old, found.new)]
    assert versions == ["1.0", "2.0"]


# --- versions in one run ----------------------------------------------------------------------------------------------

OLD = Method("vllm-v0_26_0", "fp16", "vLLM 0.26.0 16-bit", versions={"vllm": "0.26.0"})
NEW = replace(OLD, image="vllm-v0_33_0", label="vLLM 0.33.0 16-bit", versions={"vllm": "0.33.0"}, tpot_s=0.006)
NEWEST = replace(OLD, image="vllm-v0_34_0", label="vLLM 0.34.0 16-bit")


def _versions(home: Path, *methods: Method) -> Path:
    """A run whose images are versions as their names say."""
    run = _write(home, replace(SCRIPT, methods=methods))
    made = {
        one.image: EngineVersion(
            image=one.image.partition("-v")[0], version=one.image.partition("-v")[2].replace("_", ".")
        )
        for one in methods
        if "-v" in one.image
    }
    record = RunRecord.read(run / layout.RUN_FILE)
    (run / layout.RUN_FILE).write_text(record.model_copy(update={"engine_versions": made}).to_json())
    return run


def test_versions_of_an_engine_in_one_run_are_compared_as_runs_are(tmp_path: Path) -> None:
    run = _versions(tmp_path, OLD, OTHER, NEW, NEWEST)
    old, new, newest = read_versions(run)
    assert [side.name for side in (old, new, newest)] == ["vllm 0.26.0", "vllm 0.33.0", "vllm 0.34.0"]
    found = compare(old, new, asked("throughput,tpot"))
    assert found.verdict is Verdict.FAIL
    assert {(line.cell, line.label) for line in found.lines} == {
        ("vllm.fp16.b1", "vLLM 16-bit"), ("vllm.fp16.b4", "vLLM 16-bit")
    }  # fmt: skip
    assert head(found).startswith("FAIL: vllm 0.33.0 against vllm 0.26.0: ")
    assert compare(old, newest, asked("tpot")).verdict is Verdict.PASS
    back = read_versions(run, "vllm", ["0.34.0", "0.26.0"])
    assert [side.name for side in back] == ["vllm 0.34.0", "vllm 0.26.0"]


def test_what_the_image_pins_is_the_baseline_where_it_was_measured_too(tmp_path: Path) -> None:
    assert [side.name for side in read_versions(_versions(tmp_path, NEW, VLLM))] == ["vllm as pinned", "vllm 0.33.0"]


def test_the_command_compares_the_versions_of_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _versions(tmp_path, OLD, NEW)

    def call(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            app([*arguments], standalone_mode=True)
        return int(ended.value.code or 0)

    assert call(str(run), "--json", str(tmp_path / "c.json"), "--quantities", "tpot") == 1
    printed = capsys.readouterr().out
    assert "FAIL: vllm 0.33.0 against vllm 0.26.0" in " ".join(printed.split())
    assert re.search(r"Verdict .* Cell .* Quantity .* Change, its 95 % interval \(%\)", printed), (
        "wide enough for a log"
    )
    record = json.loads((tmp_path / "c.json").read_text())
    assert (record["baseline"]["name"], record["comparisons"][0]["run"]["name"]) == ("vllm 0.26.0", "vllm 0.33.0")
    assert call(str(run), "--engine-version", "vllm=0.33.0,0.26.0", "--quantities", "tpot") == 0
    assert call(str(run), "--engine-version", "vllm", "--quantities", "tpot") == 1
    for wrong in (
        (str(run), str(run), "--engine-version", "vllm"),
        (str(run), "--engine-version", "vllm=0.33.0"),
    ):
        assert call(*wrong) == 2


@pytest.mark.parametrize(
    ("methods", "asked_for", "cause"),
    [
        ((VLLM,), ("", []), "one run alone, without versions of an engine"),
        ((OLD, OTHER), ("", []), "has one version of vllm alone"),
        ((OLD, NEW), ("exllama", []), "has no versions of 'exllama'"),
        ((OLD, NEW), ("vllm", ["0.26.0", "0.32.0"]), "has no version '0.32.0' of vllm"),
        ((OLD, NEW, replace(NEW, image="exllama-v1_0")), ("", []), "has versions of several engines"),
    ],
)
def test_a_run_without_two_versions_is_refused(
    tmp_path: Path, methods: tuple[Method, ...], asked_for: tuple[str, list[str]], cause: str
) -> None:
    with pytest.raises(BadInput, match=cause):
        read_versions(_versions(tmp_path, *methods), *asked_for)


def test_runs_without_a_common_cell_are_refused(tmp_path: Path) -> None:
    one = _write(tmp_path / "one", replace(SCRIPT, methods=(VLLM,)))
    two = _write(tmp_path / "two", replace(SCRIPT, methods=(OTHER,)))
    with pytest.raises(BadInput, match="no cell in common"):
        between(one, two)


# --- quantities -------------------------------------------------------------------------------------------------------


def test_memory_fails_beyond_the_bound_and_the_slack_alone(tmp_path: Path) -> None:
    small = replace(VLLM, weights_bytes=2**20, prompt_bytes=2**20)
    old = _write(tmp_path / "old", replace(SCRIPT, methods=(VLLM, small := replace(small, variant="tiny"))))
    more = (replace(VLLM, weights_bytes=VLLM.weights_bytes * 11 // 10), replace(small, weights_bytes=2**22))
    found = between(old, _write(tmp_path / "new", replace(SCRIPT, methods=more)), asked("memory"))
    by_cell = {line.cell: line.verdict for line in found.lines}
    assert by_cell["vllm.fp16.b1"] is Verdict.FAIL
    assert by_cell["vllm.tiny.b1"] is Verdict.PASS


def test_quality_is_told_by_the_same_texts(tmp_path: Path) -> None:
    old = _write(tmp_path / "old", replace(SCRIPT, methods=(replace(VLLM, nll_nat_per_token=2.0),)))
    for name, nll, verdict in (("same", 2.0, Verdict.PASS), ("worse", 2.1, Verdict.FAIL)):
        new = _write(tmp_path / name, replace(SCRIPT, methods=(replace(VLLM, nll_nat_per_token=nll),)))
        found = between(old, new, asked("quality"))
        assert [(line.cell, line.verdict) for line in found.lines] == [("vllm.fp16.b1", verdict)]


def test_a_quantity_that_the_new_run_does_not_tell_is_open(tmp_path: Path) -> None:
    old = _write(tmp_path / "old", SCRIPT)
    new = _write(tmp_path / "new", replace(SCRIPT, methods=(replace(VLLM, arrivals="none"), OTHER)))
    found = between(old, new, asked("ttft"))
    assert [line.verdict for line in found.lines if line.cell == "vllm.fp16.b1"] == [Verdict.INCONCLUSIVE]


def test_cells_under_load_are_compared_by_what_users_wait_for(tmp_path: Path) -> None:
    script = LoadScript(engines=(FAST, SLOW), window_s=30.0)
    old = write_loaded(tmp_path / "old", script)
    slower = replace(FAST, ttft_s=FAST.ttft_s * 1.3, tpot_s=FAST.tpot_s * 1.3)
    new = write_loaded(tmp_path / "new", replace(script, engines=(slower, SLOW)))
    found = between(old, new)
    failed = {(line.cell, line.quantity.name) for line in lines(found, Verdict.FAIL) if line.quantity}
    assert {("vllm.fp16.c4", "throughput"), ("vllm.fp16.c4", "tpot"), ("vllm.fp16.r20", "ttft")} <= failed
    assert {cell for cell, _ in failed} == {"vllm.fp16.c4", "vllm.fp16.r20"}
    names = {line.quantity.name for line in found.lines if line.quantity}
    assert {"throughput", "ttft", "tpot", "goodput", "memory"} <= names


def test_a_server_that_no_longer_keeps_up_fails(tmp_path: Path) -> None:
    old = write_loaded(tmp_path / "old", LoadScript(engines=(FAST,), loads=("r100",)))
    new = write_loaded(tmp_path / "new", LoadScript(engines=(replace(FAST, slots=2),), loads=("r100",)))
    found = between(old, new)
    assert only(found, "vllm.fp16.r100").verdict is Verdict.FAIL
    assert "saturated" in only(found, "vllm.fp16.r100").judged.cause
    assert not any(line.quantity and line.quantity.name == "ttft" for line in found.lines)


def test_another_seed_of_arrivals_is_not_the_same_cell(tmp_path: Path) -> None:
    script = LoadScript(engines=(FAST,), loads=("c4",))
    old, new = (write_loaded(tmp_path / name, script) for name in ("old", "new"))
    path = layout.cell_folder(new, "vllm.fp16.c4") / layout.SPEC_FILE
    spec = json.loads(path.read_text())
    spec["serve"]["protocol"]["arrival_seed"] = 7
    path.write_text(json.dumps(spec))
    found = between(old, new)
    assert "schedule is seed 1, and seed 7" in only(found, "vllm.fp16.c4").judged.cause
    assert all(line.quantity for line in between(old, new, asked(allowed="schedule")).lines)


# --- real runs --------------------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_two_real_runs_do_not_fail_and_one_with_a_planted_slowdown_does(drive: Drive, tmp_path: Path) -> None:
    def measure(name: str, slower: float) -> Path:
        options = (f"--option=null.ttft_s={0.02 * (1 + slower)}", f"--option=null.tpot_s={0.005 * (1 + slower)}")
        called = drive(
            *("--images", "null", "--device", "cpu", "--launcher", "process", "--no-harness-check", "--exhaustive"),
            *("--samples", "60", "--max-new-tokens", "8", "--batch-sizes", "1,2", "--run-id", name, *options),
        )
        assert called.code == 0, called.err
        return tmp_path / "results" / name

    one, same, slow = (measure(name, slower) for name, slower in (("one", 0.0), ("same", 0.0), ("slow", 0.05)))
    assert lines(between(one, same), Verdict.FAIL) == []
    found = between(one, slow)
    assert found.verdict is Verdict.FAIL
    # A neighbour on this machine may leave one of them open; none may pass.
    speed = [line for line in found.lines if line.quantity and line.quantity.name in SPEED.split(",")]
    assert len(speed) == 6
    assert not any(line.verdict is Verdict.PASS for line in speed)
