"""A run under load verifies as it was written; whatever is changed in it is found and named, with its file and cell."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from serving_runs import FAST, Engine, Line, LoadScript, change_log, edit, recompute, write_loaded, write_search

from bench_core.contract.records import layout
from bench_core.contract.serving.load import Serve
from bench_core.contract.serving.schedule import Schedule
from bench_core.report.write.files import write_report
from bench_core.runs.load import load_run
from bench_core.verify.differences import Difference
from bench_core.verify.publish import publish
from bench_core.verify.run import verify_run
from bench_core.verify.serving import NO_COURSE

CLOSED, OPEN, OVER = "vllm.fp16.c4", "vllm.fp16.r20", "vllm.fp16.r90"
FAILING = Engine("flaky", "fp16", "Flaky fp16", fails=25, slots=4)
FLAKY = "flaky.fp16.c4"
EVENTS, RESULT, OUTCOME = layout.EVENTS_FILE, layout.RESULT_FILE, layout.OUTCOME_FILE
OPEN_SCHEDULE = f"{layout.SCHEDULES_FOLDER}/r20.json.gz"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Closed and open loop, one overloaded; an engine that fails now and then, one that never loads."""
    dead = Engine("dead", "fp16", "Dead fp16", dies=True)
    script = LoadScript(engines=(replace(FAST, slots=4), FAILING, dead), loads=("c4", "r20", "r90"), window_s=6.0)
    return write_loaded(tmp_path_factory.mktemp("real"), script)


@pytest.fixture
def mine(real: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(real, tmp_path / "loaded"))


def differences(run: Path) -> tuple[Difference, ...]:
    return verify_run(run, published=False).differences


def named(found: tuple[Difference, ...], cell: str, file: str, what: str) -> bool:
    return any(d.cell == cell and d.file.endswith(file) and re.search(what, d.what) for d in found)


def test_an_untouched_run_verifies_and_nothing_of_it_is_left_unchecked(real: Path) -> None:
    done = verify_run(real, published=False)
    assert done.differences == ()
    assert done.not_checked == (f"{NO_COURSE} (6 x)",), "logs of an earlier version"
    assert done.cells == 9


# --- events -----------------------------------------------------------------------------------------------------------


def requests(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line["type"] == "request"]


def the(lines: list[Line], kind: str) -> Line:
    return next(line for line in lines if line["type"] == kind)


def _sent_late(lines: list[Line]) -> None:
    requests(lines)[60]["sent_s"] += 0.001


def _sent_early(lines: list[Line]) -> None:
    requests(lines)[60]["sent_s"] -= 0.001


def _token(lines: list[Line]) -> None:
    requests(lines)[60]["arrivals_us"][3] += 20


def _last_token(lines: list[Line]) -> None:
    requests(lines)[60]["arrivals_us"][-1] += 10**6


def _dropped(lines: list[Line]) -> None:
    lines.remove(requests(lines)[60])


def _last_dropped(lines: list[Line]) -> None:
    lines.remove(max(requests(lines), key=lambda line: line["index"]))


def _declared_ok(lines: list[Line]) -> None:
    next(line for line in requests(lines) if line["end"] == "status").update(end="ok")


def _made_ok(lines: list[Line]) -> None:
    """With everything that an answered request has; what the load generator took in tells it."""
    failed = next(line for line in requests(lines) if line["end"] == "status")
    like = next(line for line in requests(lines) if line["end"] == "ok")
    names = ("arrivals_us", "arrival_tokens", "output_tokens", "counted_by", "output_digest", "end", "status", "cause")
    failed.update({name: like[name] for name in names})


def _window_begins(lines: list[Line]) -> None:
    the(lines, "window")["begin_s"] += 3.0


def _window_ends(lines: list[Line]) -> None:
    the(lines, "window")["end_s"] -= 2.0


def _window_before_load(lines: list[Line]) -> None:
    the(lines, "window")["begin_s"] -= 2.5


def _window_longer(lines: list[Line]) -> None:
    the(lines, "window")["end_s"] += 60.0


def _called_precise(lines: list[Line]) -> None:
    window = the(lines, "window")
    window.update(reason="precise", end_s=window["begin_s"] + 2.0)


def _called_saturated(lines: list[Line]) -> None:
    the(lines, "window")["reason"] = "saturated"


def _called_used_up(lines: list[Line]) -> None:
    the(lines, "window")["reason"] = "schedule_used_up"


def _not_steady(lines: list[Line]) -> None:
    the(lines, "window").update(warmup_steady=False, begin_s=the(lines, "window")["begin_s"] - 1.0)


def _in_time(lines: list[Line]) -> None:
    requests(lines)[60]["scheduled_s"] -= 0.01


def _other_prompt(lines: list[Line]) -> None:
    requests(lines)[60]["prompt_digest"] = "0" * 16


def _fewer_prompt_tokens(lines: list[Line]) -> None:
    requests(lines)[60]["prompt_tokens"] -= 1


def _twice(lines: list[Line]) -> None:
    lines.insert(-2, requests(lines)[60])


# Change: the cell, and what is said of it where outcome.json and result.json are made to fit.
COVERED: dict[Callable[[list[Line]], None], tuple[str, str]] = {
    _sent_early: (OPEN, "request 60: was sent before it was to be"),
    _last_token: (OPEN, "request 60: a token arrived after it had ended"),
    _dropped: (OPEN, "1 requests of those that were sent are not told"),
    _last_dropped: (OPEN, "took in .* tokens, its requests have"),
    _declared_ok: (FLAKY, "counts as answered, with HTTP status 500"),
    _made_ok: (FLAKY, "took in .* tokens, its requests have"),
    _window_begins: (OPEN, "the window ended at its limit of 6 s, after 3.0 s"),
    _window_ends: (OPEN, "the window ended at its limit of 6 s, after 4.0 s"),
    _window_before_load: (OPEN, "the window begins before the load"),
    _window_longer: (OPEN, "the window lasted 66.0 s"),
    _called_precise: (OPEN, "ended as precise after 2.0 s"),
    _called_saturated: (OPEN, "in flight did not grow"),
    _called_used_up: (OPEN, "of which requests were left"),
    _not_steady: (OPEN, "the warm-up ended after 1.0 s without being steady"),
    _in_time: (OPEN, "at other times than the schedule's"),
    _other_prompt: (OPEN, "with other ids than the workload's"),
    _fewer_prompt_tokens: (OPEN, "prompt tokens are told, its prompt has"),
}


@pytest.mark.parametrize("change", COVERED, ids=lambda change: change.__name__.strip("_"))
def test_a_changed_log_is_found_though_digest_and_result_are_made_to_fit(
    mine: Path, change: Callable[[list[Line]], None]
) -> None:
    cell, what = COVERED[change]
    change_log(mine, cell, change, sealed=True)
    recompute(mine, cell)
    assert named(differences(mine), cell, EVENTS, what)


@pytest.mark.parametrize(
    "change",
    [_sent_late, _token, _window_ends, _dropped, _in_time, _declared_ok],
    ids=lambda change: change.__name__.strip("_"),
)
def test_a_changed_log_is_not_the_log_that_was_written(mine: Path, change: Callable[[list[Line]], None]) -> None:
    change_log(mine, FLAKY, change)
    assert named(differences(mine), FLAKY, EVENTS, "is not the log that the worker wrote")


@pytest.mark.parametrize("change", [_sent_late, _token, _window_ends], ids=lambda change: change.__name__.strip("_"))
def test_result_no_longer_follows_from_a_changed_log_whose_digest_is_made_to_fit(
    mine: Path, change: Callable[[list[Line]], None]
) -> None:
    change_log(mine, OPEN, change, sealed=True)
    found = differences(mine)
    assert not named(found, OPEN, EVENTS, "is not the log")
    assert named(found, OPEN, RESULT, r"is .*, recomputed")


def test_a_request_told_twice_is_damage(mine: Path) -> None:
    change_log(mine, OPEN, _twice, sealed=True)
    assert named(differences(mine), OPEN, EVENTS, "tells a request twice")


def test_a_compressed_log_whose_end_is_cut_off_is_damage(mine: Path) -> None:
    path = layout.cell_folder(mine, OPEN) / EVENTS
    packed = gzip.compress(path.read_bytes())
    path.unlink()
    (path.parent / layout.COMPRESSED_EVENTS_FILE).write_bytes(packed[: len(packed) // 2])
    assert named(differences(mine), OPEN, layout.COMPRESSED_EVENTS_FILE, "ended before")


def test_a_closed_loop_has_no_more_requests_than_it_may(mine: Path) -> None:
    def crowd(lines: list[Line]) -> None:
        for line in requests(lines)[40:44]:
            line["scheduled_s"] -= 0.02
            line["sent_s"] -= 0.02

    change_log(mine, CLOSED, crowd, sealed=True)
    found = differences(mine)
    assert named(found, CLOSED, EVENTS, "was to be sent when no other had ended")
    assert named(found, CLOSED, EVENTS, "requests were in flight at once, in a closed loop of 4")


def test_a_stream_of_a_closed_loop_pauses_after_a_refused_connection_and_nowhere_else(tmp_path: Path) -> None:
    refusing = Engine("refusing", "fp16", "Refusing fp16", refuses=5)
    run = write_loaded(tmp_path, LoadScript(engines=(refusing,), loads=("c4",), window_s=6.0))
    assert verify_run(run, published=False).differences == ()

    def at_once(lines: list[Line]) -> None:
        """A stream goes on before its pause is over."""
        refused = requests(lines)[44]
        assert refused["end"] == "refused"
        after_s = refused["ended_s"] + 0.25
        following = min(requests(lines), key=lambda line: abs(line["scheduled_s"] - after_s))
        following["scheduled_s"] -= 0.05

    change_log(run, "refusing.fp16.c4", at_once, sealed=True)
    assert named(differences(run), "refusing.fp16.c4", EVENTS, "was to be sent when no other had ended")


def test_a_log_copied_from_another_cell_is_found(mine: Path) -> None:
    one, other = (layout.cell_folder(mine, cell) for cell in ("vllm.fp16.r20", "flaky.fp16.r20"))
    for name in (EVENTS, RESULT, OUTCOME):
        shutil.copyfile(one / name, other / name)
    assert any("its batches are those of" in d.what for d in differences(mine))


# --- the looks at a load, and the window that follows from them -------------------------------------------------------


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Windows that ended by the rules of a client: as precise, at their limit, and as saturated."""
    script = LoadScript(engines=(replace(FAST, slots=4),), loads=("c4", "r20", "r90"), window_s=20.0, followed=True)
    return write_loaded(tmp_path_factory.mktemp("followed"), script)


@pytest.fixture
def looked(followed: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(followed, tmp_path / "loaded"))


def test_windows_that_follow_from_the_looks_verify_and_are_of_each_kind(followed: Path) -> None:
    done = verify_run(followed, published=False)
    assert done.differences == ()
    assert done.not_checked == ()
    reasons = {row.planned.cell: row.result.metrics.stop_reason for row in load_run(followed).served if row.result}
    assert reasons == {CLOSED: "precise", OPEN: "max_seconds", OVER: "saturated"}


def _stopped_early(lines: list[Line]) -> None:
    """Less time than the rule took, and still as long as a window has to be."""
    the(lines, "window")["end_s"] -= 1.0


def _fewer_looks(lines: list[Line]) -> None:
    """With the window's end at the last of them."""
    course = the(lines, "course")
    for column in ("t_s", "ended", "due"):
        del course[column][-2:]
    the(lines, "window")["end_s"] = course["t_s"][-1]


def _knew_the_future(lines: list[Line]) -> None:
    the(lines, "course")["ended"][-2] = the(lines, "course")["ended"][-1]


def _due_before_its_time(lines: list[Line]) -> None:
    the(lines, "course")["due"][-2] = the(lines, "course")["due"][-1]


def _begun_at_another_time(lines: list[Line]) -> None:
    the(lines, "course")["start_s"] += 0.1


def _unknown_request(lines: list[Line]) -> None:
    the(lines, "course")["order"][3] = 10**6


def _begins_later(lines: list[Line]) -> None:
    the(lines, "window")["begin_s"] += 0.25


LOOKS: dict[Callable[[list[Line]], None], str] = {
    _stopped_early: "the window is not what follows from the looks at the load: end_s is",
    _fewer_looks: "the window has not ended by the last look",
    _knew_the_future: "knew of a request that ended later",
    _due_before_its_time: "knew of a request that was due later",
    _begun_at_another_time: "are of one that began at another time",
    _unknown_request: "a look knew of a request that is not in the log",
    _begins_later: "the window is not what follows from the looks at the load: begin_s is",
}


@pytest.mark.parametrize("change", LOOKS, ids=lambda change: change.__name__.strip("_"))
def test_a_window_that_does_not_follow_from_the_looks_is_found(
    looked: Path, change: Callable[[list[Line]], None]
) -> None:
    change_log(looked, CLOSED, change, sealed=True)
    recompute(looked, CLOSED)
    assert named(differences(looked), CLOSED, EVENTS, LOOKS[change])


@pytest.mark.parametrize(("cell", "called"), [(CLOSED, "max_requests"), (OVER, "max_seconds")])
def test_a_window_that_ended_for_another_reason_is_found(looked: Path, cell: str, called: str) -> None:
    change_log(looked, cell, lambda lines: the(lines, "window").update(reason=called), sealed=True)
    recompute(looked, cell)
    assert named(differences(looked), cell, EVENTS, f"reason is {called} and follows as")


def test_requests_that_would_not_have_ended_a_window_as_precise_are_found(looked: Path) -> None:
    """One first token of ten comes later: the 90th percentile lies between both kinds, and is known less well."""

    def scattered(lines: list[Line]) -> None:
        begin_s = the(lines, "window")["begin_s"]
        for line in requests(lines):
            if line["scheduled_s"] > begin_s and line["index"] % 10 == 0:
                line["arrivals_us"][:2] = [line["arrivals_us"][2]] * 2

    change_log(looked, CLOSED, scattered, sealed=True)
    recompute(looked, CLOSED)
    assert named(differences(looked), CLOSED, EVENTS, "from the looks at the load|by the last look at the load")


# --- a search for the highest load, and the cells of its trials -------------------------------------------------------

SEARCH = f"{layout.CAPACITY_FOLDER}/vllm.fp16.json"


@pytest.fixture(scope="module")
def sought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that doubled, failed and halved."""
    engine = replace(FAST, slots=4)
    script = LoadScript(engines=(engine,), loads=("c2",), window_s=6.0, slo=("ttft_s=0.05",))
    run = write_loaded(tmp_path_factory.mktemp("sought"), script)
    found = write_search(run, script, engine, first=2, limit=8)
    assert (found.highest, [trial.load for trial in found.trials]) == (4, [2, 4, 8, 6, 5])
    return run


@pytest.fixture
def search(sought: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(sought, tmp_path / "loaded"))


def told_of(found: tuple[Difference, ...], file: str, what: str) -> bool:
    return any(re.search(file, d.file) and re.search(what, d.what) for d in found)


def trial(run: Path, number: int) -> Path:
    return run / layout.CAPACITY_FOLDER / "vllm.fp16" / layout.trial_folder(number)


def test_an_untouched_search_verifies(sought: Path) -> None:
    assert differences(sought) == ()


def test_what_a_search_says_of_a_trial_is_held_against_its_cell(search: Path) -> None:
    def better(record: Line) -> None:
        record["trials"][3]["attainment"].update(value=1.0, low=0.999, high=1.0)

    edit(search / SEARCH, better)
    assert told_of(differences(search), SEARCH, r"trial 4 \(concurrency 6\): attainment.value is 1.0, its cell says 0")


def test_a_search_of_other_limits_or_loads_than_its_trials_is_found(search: Path) -> None:
    edit(search / SEARCH, lambda record: record["limits"].update(ttft_s=0.5))
    edit(search / SEARCH, lambda record: record["trials"][0].update(load=3))
    found = differences(search)
    assert told_of(found, SEARCH, r"trial 5 .*its cell has the limits ttft_s <= 0.05")
    assert told_of(found, SEARCH, r"trial 1 \(concurrency 3\): its cell is of concurrency 2")


def test_a_trial_that_is_called_a_failure_is_found(search: Path) -> None:
    edit(search / SEARCH, lambda record: record["trials"][1].update(problem="crashed: gone", attainment=None))
    assert told_of(differences(search), SEARCH, r"trial 2 .*problem is crashed: gone, its cell says\s*$")


def test_a_trials_log_is_checked_as_that_of_a_cell(search: Path) -> None:
    """And its result with it, though its digest is made to fit."""

    def sooner(lines: list[Line]) -> None:
        for line in requests(lines)[200:260]:
            line["arrivals_us"][0] = min(line["arrivals_us"][0], 30_000)

    change_log(trial(search, 4), "vllm.fp16.c6", sooner)
    assert told_of(differences(search), "trial-04/.*/events.jsonl", "is not the log that the worker wrote")
    change_log(trial(search, 4), "vllm.fp16.c6", sooner, sealed=True)
    found = differences(search)
    assert told_of(found, "trial-04/.*/result.json", "recomputed")
    recompute(trial(search, 4), "vllm.fp16.c6")
    assert told_of(differences(search), SEARCH, "trial 4 .*attainment.value is")


def test_a_trial_that_was_taken_away_or_copied_is_found(search: Path) -> None:
    shutil.rmtree(trial(search, 3))
    name = Path(layout.CELLS_FOLDER, "vllm.fp16.c4")
    for file in (EVENTS, RESULT, OUTCOME):
        shutil.copyfile(trial(search, 2) / name / file, trial(search, 5) / name.with_name("vllm.fp16.c5") / file)
    found = differences(search)
    assert told_of(found, SEARCH, "trial 3 .*holds 0 cells")
    assert told_of(found, "trial-05/.*/events.jsonl", "its batches are those of .*trial-02")


def test_a_trial_by_other_code_than_any_visits_is_found(search: Path) -> None:
    change_log(trial(search, 1), "vllm.fp16.c2", lambda lines: lines[0].update(harness="5c" * 32), sealed=True)
    assert told_of(differences(search), "trial-01/.*/events.jsonl", "which no visit in run.json had")


# --- records and schedules --------------------------------------------------------------------------------------------


def _moved(run: Path, word: str, load: Serve) -> Schedule:
    """A schedule with one request later by a millisecond, and a digest that fits."""
    path = run / layout.SCHEDULES_FOLDER / f"{word}.json.gz"
    old = Schedule.read_packed(path)
    offsets = list(old.offsets_us)
    offsets[50] += 1000 if offsets[50] + 1000 <= offsets[51] else 0
    offsets[50] = offsets[50] if offsets[50] != old.offsets_us[50] else (offsets[50] + offsets[51]) // 2
    new = Schedule.made(load, old.seed, offsets, old.prompts, old.output_tokens)
    path.write_bytes(new.packed())
    return new


def test_a_changed_schedule_is_not_the_cells(mine: Path) -> None:
    _moved(mine, "r20", Serve(load="rate", request_rate=20))
    assert named(differences(mine), OPEN, OPEN_SCHEDULE, "has digest .*, spec.json says")


def test_a_changed_schedule_is_found_though_its_digest_is_made_to_fit(mine: Path) -> None:
    new = _moved(mine, "r20", Serve(load="rate", request_rate=20))
    for cell in (OPEN, "flaky.fp16.r20", "dead.fp16.r20"):
        path = layout.cell_folder(mine, cell) / layout.SPEC_FILE
        edit(path, lambda spec: spec["serve"].update(schedule=new.digest))
    found = differences(mine)
    assert named(found, OPEN, EVENTS, "at other times than the schedule's")
    assert named(found, OPEN, OPEN_SCHEDULE, "request 50 is sent after .* from the seed follow")
    assert named(found, "dead.fp16.r20", OPEN_SCHEDULE, "from the seed follow"), "of cells that failed as well"


def test_a_schedule_that_was_taken_away_is_missed(mine: Path) -> None:
    (mine / OPEN_SCHEDULE).unlink()
    assert named(differences(mine), OPEN, OPEN_SCHEDULE, "cannot be resolved")


def test_a_changed_number_of_a_result_is_found(mine: Path) -> None:
    path = layout.cell_folder(mine, CLOSED) / RESULT
    edit(path, lambda result: result["metrics"]["ttft_s"]["p50"].update(value=0.001))
    assert named(differences(mine), CLOSED, RESULT, r"metrics.ttft_s.p50.value is 0.001, recomputed")


def test_limits_and_outcome_of_another_kind_are_found(mine: Path) -> None:
    edit(
        layout.cell_folder(mine, CLOSED) / layout.SPEC_FILE,
        lambda spec: spec["serve"]["protocol"].update(slo=["ttft_s=9"]),
    )
    edit(layout.cell_folder(mine, "dead.fp16.c4") / OUTCOME, lambda record: record.update(outcome="crashed"))
    found = differences(mine)
    assert named(found, CLOSED, RESULT, "metrics.kept.limits.ttft_s")
    assert named(found, "dead.fp16.c4", OUTCOME, "outcome is crashed, but the event log ends with oom_load")


def test_a_failure_that_is_called_a_success_is_damage(mine: Path) -> None:
    edit(layout.cell_folder(mine, "dead.fp16.c4") / OUTCOME, lambda record: record.update(outcome="ok", cause=""))
    assert named(differences(mine), "dead.fp16.c4", EVENTS, "does not end well")


def test_another_model_s_cell_is_found(mine: Path) -> None:
    edit(layout.cell_folder(mine, CLOSED) / layout.SPEC_FILE, lambda spec: spec.update(label="other"))
    assert named(differences(mine), CLOSED, layout.SPEC_FILE, "label is other")


# --- what is published ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_published_is_compared_and_a_copy_verifies(mine: Path, tmp_path: Path) -> None:
    write_report(mine)
    assert verify_run(mine).differences == ()
    copy = tmp_path / "copy"
    names = {path.relative_to(copy).as_posix() for path in publish(mine, copy)}
    assert {layout.SERVING_TABLE_FILE, OPEN_SCHEDULE, "figures/frontier.svg", "figures/ttft.svg"} <= names
    assert layout.TABLE_FILE not in names
    assert f"  {OPEN_SCHEDULE}\n" in (copy / layout.DIGESTS_FILE).read_text(encoding="utf-8")
    table = mine / layout.SERVING_TABLE_FILE
    table.write_text(re.sub(r"(?m)^(vllm\.fp16\.c4,.*),4,", r"\1,5,", table.read_text(encoding="utf-8")))
    figure = mine / layout.FIGURES_FOLDER / "frontier.svg"
    svg = figure.read_text(encoding="utf-8")
    figure.write_text(re.sub(r"output_tok_s: \d", "output_tok_s: 9", svg, count=1), encoding="utf-8")
    found = verify_run(mine).differences
    assert named(found, CLOSED, f"{layout.SERVING_TABLE_FILE}:2", "is 5, recomputed 4")
    assert any(d.file.endswith("frontier.svg") and "its marks are not those" in d.what for d in found)


def test_the_digest_in_outcome_json_is_of_the_log(real: Path) -> None:
    folder = layout.cell_folder(real, OVER)
    told = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))["events_sha256"]
    assert told == hashlib.sha256((folder / EVENTS).read_bytes()).hexdigest()


@pytest.mark.parametrize(("reason", "found"), [("max_seconds", True), ("schedule_used_up", False)])
def test_a_generator_ends_before_its_window_only_with_nothing_left_to_send(
    mine: Path, reason: str, found: bool
) -> None:
    """It then ends by itself, before the next look at the course."""

    def ended_before(lines: list[Line]) -> None:
        the(lines, "window")["reason"] = reason
        the(lines, "generator")["ended_s"] = the(lines, "window")["end_s"] - 0.2

    change_log(mine, OPEN, ended_before, sealed=True)
    recompute(mine, OPEN)
    assert named(differences(mine), OPEN, EVENTS, "a load generator ended within the window") is found
