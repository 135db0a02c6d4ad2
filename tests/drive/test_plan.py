"""A request becomes exactly the cells that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench_core.contract.errors import BadInput
from bench_core.drive.ask.request import Suite
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import Plan, make_plan, plan_of_cells

IMAGE = """
name: {name}
title: {name}
adapter: adapter:A
batching: native
token_times: live
devices: [{devices}]
packages: []
converts: {{{converts}}}
variants:
  fast: {{artifact: {artifact}, default: true}}
  exact: {{artifact: hf}}
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Two images that run on both devices, one on a GPU alone."""
    for name, devices, artifact, converts in (
        ("alpha", "cuda, cpu", "a-int8", "a-int8: 'c:f'"),
        ("beta", "cuda, cpu", "hf", ""),
        ("gamma", "cuda", "a-int8", ""),
    ):
        folder = tmp_path / name
        folder.mkdir()
        text = IMAGE.format(name=name, devices=devices, artifact=artifact, converts=converts)
        (folder / "image.yaml").write_text(text, encoding="utf-8")
    return Catalogue(tmp_path)


def _cells(suite: Suite, catalogue: Catalogue, device: str = "cpu") -> list[str]:
    return [cell.cell for cell in make_plan(suite, catalogue, device).cells]  # type: ignore[arg-type]


def test_all_images_at_their_defaults_leave_out_what_does_not_run_here(catalogue: Catalogue) -> None:
    plan = make_plan(Suite(batch_sizes=(4, 1)), catalogue, "cpu")
    assert [cell.cell for cell in plan.cells] == ["alpha.fast.b1", "alpha.fast.b4", "beta.fast.b1", "beta.fast.b4"]
    assert plan.left_out == ("gamma does not run on cpu",)
    assert plan.artifacts == ("a-int8",)


def test_a_bare_variant_counts_for_every_image_that_has_it(catalogue: Catalogue) -> None:
    suite = Suite(images=("alpha", "beta"), variants=("exact",), batch_sizes=(1,))
    assert _cells(suite, catalogue) == ["alpha.exact.b1", "beta.exact.b1"]


def test_an_image_without_a_named_variant_runs_its_default(catalogue: Catalogue) -> None:
    suite = Suite(images=("alpha", "beta"), variants=("alpha.exact", "alpha.fast"), batch_sizes=(1,))
    assert _cells(suite, catalogue) == ["alpha.exact.b1", "alpha.fast.b1", "beta.fast.b1"]


def test_all_variants(catalogue: Catalogue) -> None:
    suite = Suite(images=("beta",), variants=("all",), batch_sizes=(1,))
    assert _cells(suite, catalogue) == ["beta.fast.b1", "beta.exact.b1"]


def test_a_named_image_that_does_not_run_here_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(BadInput, match="gamma does not run on cpu"):
        make_plan(Suite(images=("gamma",)), catalogue, "cpu")


def test_an_artifact_is_made_by_the_image_that_says_so(catalogue: Catalogue) -> None:
    assert catalogue.maker_of("a-int8").name == "alpha"
    with pytest.raises(BadInput, match="no image makes"):
        catalogue.maker_of("a-int4")


def test_a_folder_whose_manifest_has_another_name_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    text = IMAGE.format(name="two", devices="cpu", artifact="hf", converts="")
    (folder / "image.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match="is not the folder's"):
        Catalogue(tmp_path)


def test_suite_files_of_the_repository_are_whole_and_run(tmp_path: Path) -> None:
    """Every file under suites/ is valid and plans cells on its device, on a GPU host where it names none."""
    root = Path(__file__).resolve().parents[2]
    suites = sorted((root / "suites").glob("*.yaml"))
    assert {path.name for path in suites} >= {"demo.yaml", "study.yaml"}
    for path in suites:
        suite = Suite.load(path)
        assert make_plan(suite, Catalogue(), "cpu" if suite.device == "cpu" else "cuda").cells


def test_the_study_is_the_study() -> None:
    """suites/study.yaml holds the protocol of the study that the suite reproduces."""
    suite = Suite.load(Path(__file__).resolve().parents[2] / "suites" / "study.yaml")
    assert suite.batch_sizes == (1, 4, 16, 64)
    assert (suite.samples, suite.max_new_tokens, suite.length, suite.warmup_batches) == (6000, 200, "natural", 1)
    assert (suite.dataset, suite.split) == ("roneneldan/TinyStories", "validation")
    assert suite.shuffle_seed is None, "the first 6000 stories, in their order"
    assert suite.protocol.precision is None, "all prompts are measured"
    assert not suite.protocol.warmup_rule.has_room_for_the_test, "the first batch is discarded, and nothing else"


def test_the_image_named_null_needs_no_quotes_in_a_suite_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("images: [null, transformers]\n", encoding="utf-8")
    assert Suite.load(path).images == ("null", "transformers")


def _measured(plan: Plan) -> list[str]:
    return list(plan.to_measure)


def test_a_control_in_the_grid_is_its_first_repeat_measured_first_and_tabled_in_its_place(catalogue: Catalogue) -> None:
    plan = make_plan(Suite(images=("alpha", "beta"), batch_sizes=(1, 4), control="beta.fast.b1"), catalogue, "cpu")
    assert _measured(plan) == ["beta.fast.b1", "alpha.fast.b1", "alpha.fast.b4", "beta.fast.b4"]
    assert [cell.cell for cell in plan.cells] == ["alpha.fast.b1", "alpha.fast.b4", "beta.fast.b1", "beta.fast.b4"]


def test_a_control_outside_the_grid_is_a_cell_of_its_own(catalogue: Catalogue) -> None:
    plan = make_plan(Suite(images=("alpha",), batch_sizes=(1,), control="beta.exact.b8"), catalogue, "cpu")
    assert _measured(plan) == ["beta.exact.b8", "alpha.fast.b1"]
    assert [cell.cell for cell in plan.cells] == ["alpha.fast.b1", "beta.exact.b8"]


def test_a_later_visit_leaves_out_what_is_complete_and_repeats_the_control(catalogue: Catalogue) -> None:
    suite = Suite(images=("alpha", "beta"), batch_sizes=(1, 4), control="beta.fast.b1")
    first = make_plan(suite, catalogue, "cpu")
    second = first.resumed([cell for cell in first.cells if cell.cell != "alpha.fast.b4"])
    assert _measured(second) == ["beta.fast.b1.r2", "alpha.fast.b4"]
    third = first.resumed([cell for cell in second.cells if cell.cell != "beta.fast.b4"])
    assert _measured(third) == ["beta.fast.b1.r3", "beta.fast.b4"]
    assert _measured(first.resumed(first.cells)) == [], "nothing to measure is nothing to control"


def test_a_runs_own_cells_are_planned_again_without_repeats_of_the_control(catalogue: Catalogue) -> None:
    suite = Suite(images=("alpha",), batch_sizes=(1, 4), control="alpha.fast.b1")
    first = make_plan(suite, catalogue, "cpu")
    extended = first.resumed([first.cells[0]])
    again = plan_of_cells(extended.cells, suite, catalogue, "cpu")
    assert [cell.cell for cell in again.grid[0].planned()] == ["alpha.fast.b1", "alpha.fast.b4"]
    assert len(again.grid) == 1
    without = plan_of_cells(extended.cells, Suite(), catalogue, "cpu")
    assert _measured(without) == ["alpha.fast.b1", "alpha.fast.b4", "alpha.fast.b1.r2"], "left for whole repeats"


def test_a_repeated_grid_is_launched_in_blocks_of_random_order(catalogue: Catalogue) -> None:
    """Each repeat of a variant is a launch of its own; every repeat is complete before the next begins."""
    suite = Suite(images=("alpha", "beta"), variants=("all",), batch_sizes=(1, 4), repeats=6)
    plan = make_plan(suite, catalogue, "cpu")
    table = [cell.cell for cell in plan.cells]
    assert sorted(_measured(plan)) == sorted(table)
    assert len(table) == 2 * 2 * 2 * 6
    assert table[:3] == ["alpha.fast.b1", "alpha.fast.b4", "alpha.fast.b1.r2"]
    blocks = [[(job.title, job.repeat) for job in plan.jobs[k : k + 4]] for k in range(0, 24, 4)]
    assert [{repeat for _, repeat in block} for block in blocks] == [{r} for r in range(1, 7)]
    assert len({tuple(title for title, _ in block) for block in blocks}) > 1, "not always the same order"
    assert _measured(make_plan(suite, catalogue, "cpu")) == _measured(plan), "the seed decides"
    assert _measured(make_plan(suite.model_copy(update={"order_seed": 1}), catalogue, "cpu")) != _measured(plan)
    once = suite.model_copy(update={"repeats": 1})
    assert _measured(make_plan(once, catalogue, "cpu")) == [cell for cell in table if ".r" not in cell]


def test_a_resumed_grid_of_repeats_keeps_its_order_and_its_control(catalogue: Catalogue) -> None:
    suite = Suite(images=("alpha", "beta"), batch_sizes=(1,), repeats=3, control="beta.fast.b1")
    first = make_plan(suite, catalogue, "cpu")
    assert sorted(_measured(first)) == sorted(cell.cell for cell in first.cells)
    done = [cell for cell in first.cells if cell.cell not in ("alpha.fast.b1.r2", "alpha.fast.b1.r3")]
    again = plan_of_cells(first.cells, suite, catalogue, "cpu").resumed(done)
    assert _measured(again) == ["beta.fast.b1.r4", "alpha.fast.b1.r2", "alpha.fast.b1.r3"]
    assert (again.repeats, again.order_seed) == (3, 0)
    third = plan_of_cells((*first.cells, *again.cells), suite, catalogue, "cpu")
    assert not any(cell.cell.endswith(".r4") for cell in third.resumed([]).cells), "a control of that visit alone"


@pytest.mark.parametrize("word", ["gamma.fast.b1", "alpha.other.b1", "alpha.fast", "alpha.fast.b0", "fast.b1", ""])
def test_a_control_that_is_no_cell_here_is_refused(catalogue: Catalogue, word: str) -> None:
    with pytest.raises(BadInput):
        make_plan(Suite(images=("alpha",), control=word), catalogue, "cpu")
