"""An image's recipe follows from the repository's files alone, so that two machines agree on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import docker.errors
import pytest

from bench_core.drive.launch.containers import build as docker_images
from bench_core.drive.launch.containers.build import ImageBuilder
from bench_core.drive.launch.processes.launcher import ProcessLauncher
from bench_core.drive.plan.catalogue import IMAGES_FOLDER, REPOSITORY, Catalogue, Image
from bench_core.drive.plan.recipe import recipe_of


class _Engine:
    """A Docker engine that has none of the images."""

    class images:  # noqa: N801  # as the SDK names it
        @staticmethod
        def get(_tag: str) -> Any:
            raise docker.errors.ImageNotFound("none")


@pytest.fixture
def builder() -> ImageBuilder:
    return ImageBuilder(_Engine())  # type: ignore[arg-type]  # all that a recipe asks of a client


def _image(name: str) -> Image:
    return Catalogue(IMAGES_FOLDER).get(name)


def test_a_recipe_differs_between_images_and_flavours_and_asks_no_engine(builder: ImageBuilder) -> None:
    recipes = {builder.recipe(_image(name), flavour) for name in ("null", "vllm") for flavour in ("cpu", "cuda")}
    assert len(recipes) == 4


def test_what_an_image_is_built_on_is_part_of_its_recipe(
    builder: ImageBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = builder.recipe(_image("null"), "cuda")
    monkeypatch.setenv("BENCH_CUDA_BASE_IMAGE", "other:1")
    assert builder.recipe(_image("null"), "cuda") != before


@pytest.mark.parametrize(
    "name",
    ["images/transformers/adapter.py", "docker/torch.Dockerfile", "docker/base.Dockerfile", "docker/constraints.txt"],
)
def test_every_file_that_an_image_and_its_bases_are_built_of_counts(
    builder: ImageBuilder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen: list[Path] = []

    def note(places: list[Path], _words: dict[str, str]) -> str:
        seen.extend(places)
        return ""

    monkeypatch.setattr(docker_images, "recipe_of", note)
    builder.recipe(_image("transformers"), "cuda")
    assert any((REPOSITORY / name).is_relative_to(place) for place in seen)


def test_a_recipe_follows_from_content_and_names_and_not_from_what_python_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench_core.drive.plan.recipe.REPOSITORY", tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_text("1", encoding="utf-8")
    before = recipe_of([tmp_path / "a"], {"k": "v"})
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "x.pyc").write_text("1", encoding="utf-8")
    assert recipe_of([tmp_path / "a", tmp_path / "a" / "x.py"], {"k": "v"}) == before
    assert recipe_of([tmp_path / "a"], {"k": "w"}) != before
    (tmp_path / "a" / "x.py").rename(tmp_path / "a" / "y.py")
    assert recipe_of([tmp_path / "a"], {"k": "v"}) != before


def test_processes_have_recipes_of_their_own(builder: ImageBuilder) -> None:
    launcher = ProcessLauncher()
    assert launcher.recipe(_image("null"), "cpu") == launcher.recipe(_image("null"), "cpu")
    assert launcher.recipe(_image("null"), "cpu") != builder.recipe(_image("null"), "cpu")
