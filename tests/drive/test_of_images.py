"""A suite file of several images, of which the command line names some: the rest of the file is of these alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT, Drive

from bench_core.contract.errors import BadInput
from bench_core.drive.ask.of_images import of_images
from bench_core.drive.ask.request import Suite
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.engine_versions import with_versions
from bench_core.drive.plan.plan import make_plan

IMAGE = """
name: {name}
title: {name}
adapter: adapter:A
batching: native
token_times: live
devices: [cpu]
packages: [engine-of-{name}]
variants:
  fast: {{artifact: hf, default: true}}
  exact: {{artifact: hf}}
  {own}: {{artifact: hf}}
"""
SUITE = Suite(
    images=("alpha", "beta"),
    variants=("alpha.exact", "fast", "beta.fast", "b-own"),
    batch_sizes=(1,),
    find_max_batch=("alpha.fast", "beta.exact"),
    find_capacity=("beta.fast",),
    slo=("ttft_s=1",),
    engine_version={"alpha": ("1.0", "2.0"), "beta": ("3.0",)},
)


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    for name in ("alpha", "beta"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.yaml").write_text(IMAGE.format(name=name, own=f"{name[0]}-own"), encoding="utf-8")
        (tmp_path / name / "requirements.txt").write_text(f"engine-of-{name}==0.1\n", encoding="utf-8")
    return Catalogue(tmp_path)


def test_what_is_of_other_images_is_passed_over(catalogue: Catalogue) -> None:
    alpha = of_images(SUITE, ("alpha",), catalogue)
    assert alpha.variants == ("alpha.exact", "fast")
    assert (alpha.find_max_batch, alpha.find_capacity) == (("alpha.fast",), ())
    assert alpha.engine_version == {"alpha": ("1.0", "2.0")}
    beta = of_images(SUITE, ("beta",), catalogue)
    assert beta.variants == ("fast", "beta.fast", "b-own")
    assert (beta.find_max_batch, beta.find_capacity) == (("beta.exact",), ("beta.fast",))
    assert beta.engine_version == {"beta": ("3.0",)}


@pytest.mark.parametrize("images", [("all",), ("alpha", "beta")])
def test_with_all_images_the_file_stands_as_it_is(catalogue: Catalogue, images: tuple[str, ...]) -> None:
    assert of_images(SUITE, images, catalogue) == SUITE


def test_a_version_by_its_own_name_stands_for_itself(catalogue: Catalogue, tmp_path: Path) -> None:
    given = SUITE.model_copy(update={"variants": ("alpha.exact", "alpha-v1_0.fast", "beta.fast")})
    suite = of_images(given, ("alpha-v2_0",), catalogue)
    assert (suite.variants, suite.engine_version) == (("alpha.exact",), {"alpha": ("2.0",)})
    versions = with_versions(catalogue, suite.engine_version, tmp_path / "made")
    plan = make_plan(suite.model_copy(update={"images": ("alpha-v2_0",)}), versions, "cpu")
    assert plan.to_measure == ("alpha-v2_0.exact.b1",)


def test_the_control_compares_visits_and_stays(catalogue: Catalogue, tmp_path: Path) -> None:
    """With the version that it names."""
    suite = of_images(SUITE.model_copy(update={"control": "alpha-v1_0.fast.b1"}), ("beta",), catalogue)
    assert suite.engine_version == {"alpha": ("1.0",), "beta": ("3.0",)}
    versions = with_versions(catalogue, suite.engine_version, tmp_path / "made")
    plan = make_plan(suite.model_copy(update={"images": ("beta",)}), versions, "cpu")
    assert [cell.split(".b1")[0] for cell in plan.to_measure][:1] == ["alpha-v1_0.fast"]


@pytest.mark.parametrize("word", ["beta.wrong", "wrong", "gamma.fast"])
def test_a_word_that_nothing_is_called_by_is_refused_all_the_same(catalogue: Catalogue, word: str) -> None:
    given = SUITE.model_copy(update={"variants": ("alpha.fast", word), "engine_version": {}})
    suite = of_images(given, ("alpha",), catalogue)
    with pytest.raises(BadInput, match=word.rpartition(".")[2]):
        make_plan(suite.model_copy(update={"images": ("alpha",)}), catalogue, "cpu")


def test_the_headline_run_can_be_had_image_by_image() -> None:
    """Each cell of the file belongs to one image's visit."""
    suite, catalogue = Suite.load(ROOT / "suites" / "headline.yaml"), Catalogue()
    whole = make_plan(suite, catalogue, "cuda").to_measure
    visits: list[str] = []
    for image in suite.images:
        of_one = of_images(suite, (image,), catalogue).model_copy(update={"images": (image,)})
        visits += make_plan(of_one, catalogue, "cuda").to_measure
    assert sorted(visits) == sorted(whole)


def test_the_command_line_is_held_to_its_own_words(drive: Drive, tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(
        "images: ['null', transformers]\nvariants: ['null.scripted', transformers.fp32]\nbatch_sizes: [1]\n"
        "find_max_batch: [transformers.fp32]\ndevice: cpu\nlauncher: process\nsamples: 20\n",
        encoding="utf-8",
    )
    shown = drive("--suite", str(file), "--images", "null", "--dry-run")
    assert shown.code == 0, shown.err
    assert "null.scripted" in shown.out
    assert "transformers" not in shown.out
    refused = drive("--suite", str(file), "--images", "null", "--variants", "transformers.fp32", "--dry-run")
    assert refused.code == 2
    assert "--variants names transformers.fp32, but transformers is not among the images" in refused.err
