"""An artifact is made once, in a folder of its own, and is in place whole or not at all."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_material import MODEL, Place, make_workload, write_image

from bench_core.contract.errors import BadInput
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.contract.records.workload import Workload
from bench_core.system import files
from bench_core.worker import by_hand
from bench_core.worker.convert import convert
from bench_core.worker.resolve import Resolver

MANIFEST = """\
  made: {artifact: made-int8}
converts: {made-int8: convert:make, broken: convert:fail, hollow: convert:nothing, absent: convert:absent}
"""
CONVERT = """\
def make(conversion):
    assert conversion.artifact == "made-int8"
    assert not list(conversion.target.iterdir())
    weights = (conversion.source / "weights").read_text()
    (conversion.target / "sub").mkdir()
    (conversion.target / "sub" / "model.bin").write_text(weights.upper())
    return {"device": conversion.device.kind, "bits": 8}


def fail(conversion):
    (conversion.target / "half").write_text("half of it")
    raise RuntimeError("out of tune\\nand more")


def nothing(conversion):
    return {}
"""
CALIBRATED = """\
def make(conversion):
    (conversion.target / "model.bin").write_text("made")
    return {"seen": [list(prompt) for prompt in conversion.calibration]}
"""


@pytest.fixture(autouse=True)
def _fresh_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test's image has its own `convert` and `adapter`; Python would hand out the first one for ever."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("convert", "adapter"):
        sys.modules.pop(name, None)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "image", manifest=MANIFEST, convert=CONVERT)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place.prepared(tmp_path / "place")
    (place.models / "toy" / "hf").mkdir()
    (place.models / "toy" / "hf" / "weights").write_text("weights")
    return place


def resolver(place: Place, image: Path, *words: str) -> Resolver:
    return by_hand.resolver_of(by_hand.build_parser().parse_args(place.arguments(*words, image=image)))


def made(place: Place, image: Path, artifact: str = "made-int8") -> tuple[ArtifactRecord, bool]:
    sys.modules.pop("convert", None)
    return convert(resolver(place, image), artifact)


def model_files(place: Place) -> set[str]:
    return {path.name for path in (place.models / "toy").iterdir()}


def test_an_artifact_is_made_with_its_record_and_nothing_beside_it(place: Place, image: Path) -> None:
    record, now = made(place, image)
    folder = place.models / "toy" / "made-int8"
    assert now
    assert (folder / "sub" / "model.bin").read_text() == "WEIGHTS"
    assert ArtifactRecord.read(folder / "artifact.json") == record
    assert record.damage(folder) is None
    assert (record.source_digest, record.made_by, record.artifact) == (MODEL.digest, "twisted", "made-int8")
    assert record.facts == {"device": "cpu", "bits": "8"}
    assert model_files(place) == {"model.json", "hf", "made-int8"}


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_what_a_library_wrote_for_its_owner_alone_may_be_read_as_any_other_file(
    place: Place, image: Path, monkeypatch: pytest.MonkeyPatch, mask: int, file: int, folder: int
) -> None:
    """safetensors renames a temporary file of mode 600; the box that measures is another user where root drives."""
    (image / "convert.py").write_text(
        "import os\n\n\ndef make(conversion):\n"
        "    (conversion.target / 'sub').mkdir(0o700)\n"
        "    (conversion.target / 'sub' / 'model.bin').touch(0o600)\n"
        "    return {'bits': 8}\n"
    )
    monkeypatch.setattr(files, "_UMASK", mask)  # as in a process that began with it
    before = os.umask(mask)
    try:
        made(place, image)
    finally:
        os.umask(before)
    whole = place.models / "toy" / "made-int8"
    assert stat.S_IMODE((whole / "sub" / "model.bin").stat().st_mode) == file
    assert stat.S_IMODE((whole / "sub").stat().st_mode) == folder
    assert stat.S_IMODE((whole / "artifact.json").stat().st_mode) & 0o077 == file & 0o077


def test_one_that_is_there_and_whole_is_not_made_again(place: Place, image: Path) -> None:
    first, _ = made(place, image)
    again, now = made(place, image)
    assert not now
    assert again == first


def test_a_damaged_one_is_made_again(place: Place, image: Path) -> None:
    first, _ = made(place, image)
    model = place.models / "toy" / "made-int8" / "sub" / "model.bin"
    model.write_text("broken")
    (model.parent / "stray").write_text("of the old one")
    again, now = made(place, image)
    assert now
    assert again.digest == first.digest
    assert model.read_text() == "WEIGHTS"
    assert not (model.parent / "stray").exists()
    assert model_files(place) == {"model.json", "hf", "made-int8"}


def test_a_converter_sees_the_workload_to_calibrate_on_in_order(place: Place, image: Path) -> None:
    (image / "convert.py").write_text(CALIBRATED)
    workload = place.data / "w.json"
    prompts = Workload.read(workload).prompts
    assert made(place, image)[0].facts["seen"] == str(list(map(list, prompts)))
    other = make_workload([[7, 8, 9]])
    (place.data / "other.json").write_text(other.to_json())
    named = resolver(place, image, "--workload", "other.json")
    assert named.calibration(MODEL) == ((7, 8, 9),)
    stranger = ("--model-folder", "another", "--device", "cpu")  # what was prepared last is for the model toy
    alone = resolver(place, image, *stranger)
    assert alone.calibration(MODEL) == ()
    (place.data / "prepared.json").unlink()
    nothing = resolver(place, image, "--model-folder", "toy")
    assert nothing.calibration(MODEL) == ()


def test_a_workload_of_another_tokenizer_is_refused_for_calibration(place: Place, image: Path) -> None:
    (place.data / "w.json").write_text(make_workload([[MODEL.vocab_size]]).to_json())
    with pytest.raises(BadInput, match="has a vocabulary of"):
        made(place, image)
    assert model_files(place) == {"model.json", "hf"}


def test_another_converter_or_another_model_makes_it_again(place: Place, image: Path) -> None:
    first, _ = made(place, image)
    (image / "convert.py").write_text(CONVERT.replace("upper", "title"))
    second, now = made(place, image)
    assert now
    assert second.converter_digest != first.converter_digest
    assert (place.models / "toy" / "made-int8" / "sub" / "model.bin").read_text() == "Weights"
    (image / "requirements.convert.txt").write_text("pin==1\n")
    assert made(place, image)[1]
    other = MODEL.model_copy(update={"digest": "1" * 64})
    (place.models / "toy" / "model.json").write_text(other.to_json())
    assert made(place, image)[1]
    assert not made(place, image)[1]


def test_a_converter_that_raises_leaves_nothing(place: Place, image: Path) -> None:
    with pytest.raises(RuntimeError, match="out of tune"):
        made(place, image, "broken")
    assert model_files(place) == {"model.json", "hf"}


def test_a_converter_that_raises_leaves_the_old_artifact(place: Place, image: Path) -> None:
    made(place, image)
    (image / "convert.py").write_text(CONVERT.replace("return {", "raise RuntimeError('halfway')\n    return {"))
    with pytest.raises(RuntimeError, match="halfway"):
        made(place, image)
    assert (place.models / "toy" / "made-int8" / "sub" / "model.bin").read_text() == "WEIGHTS"
    assert model_files(place) == {"model.json", "hf", "made-int8"}


def test_a_converter_that_writes_nothing_is_refused_and_leaves_nothing(place: Place, image: Path) -> None:
    with pytest.raises(BadInput, match="left no file"):
        made(place, image, "hollow")
    assert model_files(place) == {"model.json", "hf"}


def test_what_a_killed_conversion_left_is_cleared_away(place: Place, image: Path) -> None:
    import os

    left = place.models / "toy" / f".made-int8.{os.getpid()}.part"  # in a container the process id is always the same
    left.mkdir()
    (left / "half").write_text("half of it")
    made(place, image)
    assert model_files(place) == {"model.json", "hf", "made-int8"}
    assert not (place.models / "toy" / "made-int8" / "half").exists()


@pytest.mark.parametrize(
    ("artifact", "cause"),
    [("other", "does not make 'other'"), ("absent", "convert.py has no absent")],
)
def test_what_the_image_cannot_make_is_refused(place: Place, image: Path, artifact: str, cause: str) -> None:
    with pytest.raises(BadInput, match=cause):
        made(place, image, artifact)


def test_without_its_source_nothing_is_made(place: Place, image: Path) -> None:
    (place.models / "toy" / "hf" / "weights").unlink()
    (place.models / "toy" / "hf").rmdir()
    with pytest.raises(BadInput, match="hf is missing"):
        made(place, image)


def test_from_the_command_line(place: Place, image: Path) -> None:
    made_now = place.run("--variant", "made", "--convert", "auto", image=image)
    assert (made_now.code, made_now.out) == (0, "")
    assert "made-int8: made in" in made_now.err
    assert "is there and whole" in place.run("--convert", "made-int8", image=image).err
    assert "nothing to do" in place.run("--variant", "only", "--convert", "auto", image=image).err
    failed = place.run("--convert", "broken", image=image)
    assert failed.code == 14
    assert failed.err.splitlines()[-1] == "error: broken could not be made: RuntimeError: out of tune"


def test_what_was_made_can_be_measured_until_it_is_damaged(place: Place, image: Path) -> None:
    assert place.run("--convert", "made-int8", image=image).code == 0
    measure = ("--variant", "made", "--max-new-tokens", "2", "--max-batches", "1", "--option", "ttft_s=0.001")
    assert place.run(*measure, "--run-id", "a", image=image).code == 0
    record = ArtifactRecord.read(place.models / "toy" / "made-int8" / "artifact.json")
    assert place.cell("a", "twisted.made.b1").spec.artifact_digest == record.digest
    (place.models / "toy" / "made-int8" / "sub" / "model.bin").write_text("WEIGHTs")
    refused = place.run(*measure, "--run-id", "b", image=image)
    assert refused.code == 2
    assert "is damaged: the content of sub/model.bin has changed" in refused.err
