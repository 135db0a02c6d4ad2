"""The core on a virtual clock: order, pins, lost workers, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scale import Measured, growth_faults, measured
from stand_ins import two_prompts
from virtual import VirtualExecutor

from bench_core.contract.asked.scenario import Offline
from bench_core.contract.errors import MachineFailure
from bench_core.drive.ask.request import Request, Suite
from bench_core.drive.fleet.executor import Task, Worker
from bench_core.drive.fleet.queue import Before, JobQueue
from bench_core.drive.fleet.sample import sampled, with_control
from bench_core.drive.launch.processes.launcher import ProcessLauncher
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import Job, Plan, make_plan
from bench_core.drive.run.conduct import Finished
from bench_core.drive.run.execute import Execution
from bench_core.drive.run.progress import Display

TWO = (Worker("one"), Worker("two"))


def job(*sizes: int, repeat: int = 1) -> Job:
    return Job(Catalogue().get("null"), "scripted", tuple(Offline(batch_size=size) for size in sizes), {}, repeat)


def by_size(task: Task) -> float:
    """A cell takes as many seconds as its batch has prompts."""
    return float(sum(cell.batch_size for cell in task.assignment.cells))


def measure(
    tmp_path: Path, plan: Plan, suite: Suite, executor: VirtualExecutor, before: Before | None = None
) -> Finished:
    """The core as it is, with this executor."""
    prepared, run = two_prompts(tmp_path)
    request = Request(suite=suite, data=tmp_path)
    execution = Execution(request, plan, ProcessLauncher(), [], Display(), executor=executor)
    return execution.measure(prepared, run, {}, before=before or Before())


def test_the_longest_is_begun_first_by_what_earlier_visits_tell(tmp_path: Path) -> None:
    plan = Plan("cpu", tuple(job(size) for size in (1, 2, 3, 4, 10)))
    took = {("null.scripted", f"b{size}"): float(size) for size in (1, 2, 3, 4, 10)}
    executor = VirtualExecutor(TWO, by_size)
    finished = measure(tmp_path, plan, Suite(images=("null",)), executor, Before(took_s=took))
    assert finished.exit_code == 0
    assert [ran.cells[0].rpartition(".b")[2] for ran in executor.ran] == ["4", "3", "2", "10", "1"]
    assert executor.now_s == 10.0
    assert finished.ran_on["null.scripted.b10"] != finished.ran_on["null.scripted.b4"]


def test_one_worker_keeps_the_order_of_the_plan(tmp_path: Path) -> None:
    plan = Plan("cpu", tuple(job(size) for size in (2, 1, 3)))
    executor = VirtualExecutor(TWO[:1], by_size)
    measure(tmp_path, plan, Suite(images=("null",)), executor)
    assert [ran.cells for ran in executor.ran] == [(f"null.scripted.b{size}",) for size in (2, 1, 3)]


def test_repeats_come_one_after_the_other_but_for_the_last_ones() -> None:
    jobs = [job(size, repeat=repeat) for repeat in range(1, 7) for size in (1, 2, 3, 4)]
    queue = JobQueue(jobs, ["a", "b"], lambda one: float(one.scenarios[0].batch_size))  # type: ignore[union-attr]
    taken: list[Job] = []
    while (found := queue.take("ab"[len(taken) % 2])) is not None:
        taken.append(found)
    assert [one.repeat for one in taken[:16]] == [repeat for repeat in range(1, 5) for _ in range(4)]
    sizes = [one.cells[0].removeprefix("null.scripted.b").partition(".")[0] for one in taken]
    assert sizes == [*"4321"] * 4 + [*"44332211"]


def test_what_is_compared_keeps_to_one_worker_and_to_the_one_that_has_begun_it(tmp_path: Path) -> None:
    suite = Suite(images=("null",), batch_sizes=(1, 2, 4), compare_on_one_gpu=True, repeats=2)
    plan = make_plan(suite, Catalogue(), "cpu")
    executor = VirtualExecutor((*TWO, Worker("three")), by_size)
    measure(tmp_path, plan, suite, executor, Before(homes={("b4", 1): "three", ("b1", 2): "two"}))
    assert len(executor.ran) == 6, "a launch for each cell"
    where = {ran.cells[0]: ran.worker for ran in executor.ran}
    assert where["null.scripted.b4"] == "three"
    assert where["null.scripted.b1.r2"] == "two"


def test_what_is_compared_with_a_control_follows_it(tmp_path: Path) -> None:
    """Two methods at two sizes; the control is the first method's cell at size 1, and is measured on both workers."""
    other = replace(job(1, 2), options={"ttft_s": 0.5}, variant="harness")
    plan = Plan("cpu", (job(1, 2), other), control=job(1), devices=2)
    executor = VirtualExecutor(TWO, by_size)
    suite = Suite(images=("null",), batch_sizes=(1, 2), compare_on_one_gpu=True)
    measure(tmp_path, plan, suite, executor)
    where = {ran.cells[0]: ran.worker for ran in executor.ran}
    assert where["null.scripted.b1"] == where["null.harness.b1"] == "one"
    assert where["null.scripted.b2"] == where["null.harness.b2"]
    assert where["null.scripted.b1.r2"] == "two"


def test_a_lost_worker_is_the_machines_failure_and_its_job_another_ones(tmp_path: Path) -> None:
    plan = Plan("cpu", tuple(job(size) for size in (5, 4, 3, 2)))
    took = {("null.scripted", f"b{size}"): float(size) for size in (5, 4, 3, 2)}
    executor = VirtualExecutor(TWO, by_size, lost_s={"one": 6.0})
    finished = measure(tmp_path, plan, Suite(images=("null",)), executor, Before(took_s=took))
    assert isinstance(finished.refusal, MachineFailure)
    assert "one is lost" in str(finished.refusal)
    assert sorted(finished.verdicts) == [f"null.scripted.b{size}" for size in (2, 3, 4, 5)]
    last = executor.ran[-1]
    assert (last.cells, last.worker) == (("null.scripted.b2",), "two"), "what it had in hand"


def test_every_device_measures_the_control_first_and_a_sample_is_measured_again_alone(tmp_path: Path) -> None:
    suite = Suite(images=("null",), batch_sizes=(1, 2, 4), repeats=2)
    plan = make_plan(suite, Catalogue(), "cpu")
    suite = with_control(suite, plan, 3)
    assert suite.control is not None
    plan = sampled(make_plan(suite, Catalogue(), "cpu"), suite, 3, ())
    names = [control.cells[0] for control in plan.controls]
    assert names == [suite.control, f"{suite.control}.r3", f"{suite.control}.r4"]
    assert len(plan.to_measure) == len({*plan.to_measure}) == 8
    ((again, beside),) = plan.alone
    assert beside == suite.control
    assert again.cells == (f"{suite.control}.r1000",)
    executor = VirtualExecutor((*TWO, Worker("three")), by_size)
    measure(tmp_path, plan, suite, executor)
    first = {ran.worker: ran.cells[0] for ran in reversed(executor.ran)}
    assert sorted(first.values()) == sorted(names)
    last = executor.ran[-1]
    assert last.cells == again.cells
    assert last.worker == next(ran.worker for ran in executor.ran if ran.cells == (beside,))
    assert all(ran.ended_s <= last.began_s for ran in executor.ran[:-1]), "nothing beside it"


def test_a_run_that_goes_on_measures_new_repeats_of_the_control_and_again_alone() -> None:
    suite = Suite(images=("null",), batch_sizes=(1, 2), control="null.scripted.b1")
    plan = sampled(make_plan(suite, Catalogue(), "cpu"), suite, 2, ())
    done = [cell for cell in plan.cells if cell.cell != "null.scripted.b2"]
    alone = [again.planned()[0] for again, _ in plan.alone]
    resumed = sampled(make_plan(suite, Catalogue(), "cpu").resumed(done), suite, 2, alone)
    assert [control.cells[0] for control in resumed.controls] == ["null.scripted.b1.r3", "null.scripted.b1.r4"]
    assert not {*resumed.to_measure} & {cell.cell for cell in done}
    assert [again.cells[0] for again, _ in resumed.alone] == ["null.scripted.b1.r999"]


def test_no_control_is_asked_for_by_that_word() -> None:
    suite = Suite(images=("null",), batch_sizes=(1, 2), control="none", beside_sample=0)
    plan = make_plan(suite, Catalogue(), "cpu")
    assert with_control(suite, plan, 4) == suite
    plan = sampled(plan, suite, 4, ())
    assert (plan.controls, plan.alone) == ((), ())


def test_the_benchmark_measures_the_core_and_finds_what_it_looks_for(tmp_path: Path) -> None:
    """`make fleet-scale` with a few cells; its targets are of many."""
    one = measured(200, 8, tmp_path)
    assert one.cells == 200
    assert 1.0 <= one.over_bound < 1.2
    assert Measured(10, 2, 1.051, 0.05, 10**9).faults == ["makespan 1.051 of the bound", "5.00 ms a cell", "1000 MB"]
    lines = [Measured(1000, 1, 1.0, 1.0, 1), Measured(10_000, 1, 1.0, 14.0, 1), Measured(100_000, 1, 1.0, 170.0, 1)]
    assert growth_faults(lines) == ["1000 to 10000 cells: 14.0 times the CPU, 13.3 allowed"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_begins_nothing_more(tmp_path: Path, workers: int) -> None:
    plan = Plan("cpu", tuple(job(size) for size in (5, 4, 3)))
    executor = VirtualExecutor(TWO[:workers], by_size)
    suite = Suite(images=("null",))
    execution: list[Execution] = []

    class Impatient(Display):
        def ended(self, *_news: object) -> None:
            if not executor.stops:
                execution[0].stop()

    prepared, run = two_prompts(tmp_path)
    request = Request(suite=suite, data=tmp_path)
    execution.append(Execution(request, plan, ProcessLauncher(), [], Impatient(), executor=executor))
    finished = execution[0].measure(prepared, run, {})
    assert len(finished.verdicts) == workers, "what ran has ended, and nothing else has begun"
    assert executor.stops == 1
