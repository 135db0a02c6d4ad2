"""An artifact from elsewhere: taken from the hub or a local folder instead of converted from the model.

It ends where a converter's would, ``models/<model>/<artifact>/`` with an ``artifact.json``, which says under ``given``
where it is from. Nothing proves that its weights are the model's; what its ``config.json`` says must agree, and its
tensors be of the bits, groups and types that its name says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench_core.contract.errors import BadInput
from bench_core.contract.models.artifact_tensors import given_form
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records import layout
from bench_core.contract.records.artifact import ArtifactRecord, usable_artifact
from bench_core.contract.records.digest import text_sha256
from bench_core.contract.records.record import Record
from bench_core.prepare.disk import nearest_there, readable, require_free
from bench_core.prepare.hub import is_hub_id
from bench_core.prepare.models import hf_config, weights
from bench_core.prepare.models.completeness import require_complete, require_whole_files
from bench_core.prepare.models.hub_model import Repository
from bench_core.prepare.models.model_folder import (
    PICKLES,
    ModelFolder,
    assemble,
    folder_name,
    inside,
    matches,
    must_be_copied,
)
from bench_core.prepare.staging import Progress, disk_errors, locked, quiet, staged
from bench_core.system.files import remove, replace_folder, write_file

# In every record, where a converter's has the digest of its code: artifacts brought by another way are brought again.
RECIPE = "given-1"
_PLAIN = ("*.json", "*.model", "*.txt")
_BINARY_WEIGHTS = "model.bin"
# A pickle of protocol 2 or later, and the archive that torch.save writes one into.
_PICKLE_STARTS = (b"\x80", b"PK")
_KNOWN_SOURCES = "a hub id such as owner/name, with @revision where wanted, or a folder"


class GivenPlan(Record):
    """What bringing an artifact would do.

    Attributes:
        action: ``present``: nothing.
        bytes_expected: bytes to write; 0 for links, ``None`` where only the hub knows.
    """

    artifact: str
    source: str
    action: Literal["present", "link", "download"]
    bytes_expected: int | None = None


@dataclass(frozen=True)
class _Source:
    """Where an artifact is: a folder, or a repository and revision."""

    artifact: str
    text: str
    folder: Path | None
    revision: str | None = None

    @property
    def what(self) -> str:
        return f"artifact {self.artifact} of {self.text}"

    @property
    def given(self) -> str:
        """What the record calls it: no path of this machine."""
        if self.folder is not None:
            return folder_name(self.folder)
        return self.text if self.revision is None else f"{self.text}@{self.revision}"

    def origin(self) -> str:
        """Digest of what it is taken from, cheap to compute; the same origin gives the same content."""
        if self.folder is None:
            parts: object = [self.text, self.revision]
        else:
            states = {name: path.stat() for name, path in sorted(_inspect(self).files.items())}
            parts = [(n, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for n, s in states.items()]
        return text_sha256(json.dumps([RECIPE, self.artifact, parts]))


def plan_given(artifact: str, source: str, model: ModelInfo | None, models_root: Path) -> GivenPlan:
    """Says what bringing an artifact would do. Writes nothing, asks no network; ``model`` where it is known already.

    Raises:
        BadInput: the source cannot be used, as far as that shows here.
    """
    place = _find(artifact, source)
    with disk_errors(models_root):
        if model is not None and _present(place, model, models_root / model.folder / artifact):
            return GivenPlan(artifact=artifact, source=place.given, action="present", bytes_expected=0)
        if place.folder is None:
            return GivenPlan(artifact=artifact, source=place.given, action="download")
        files = _inspect(place)
        if model is not None:
            _require_same_model(place, files, model)
        _tensors(place, files)
        _require_whole(place, files)
    here = nearest_there(models_root).stat().st_dev
    states = [(path.stat(), must_be_copied(path)) for path in files.files.values()]
    size = sum(state.st_size for state, copied in states if copied or state.st_dev != here)
    return GivenPlan(artifact=artifact, source=place.given, action="link", bytes_expected=size)


def prepare_given(
    artifact: str, source: str, model: ModelInfo, models_root: Path, progress: Progress = quiet
) -> ArtifactRecord:
    """Makes sure that an artifact from this source is in the model's folder and whole. Safe beside other processes.

    Raises:
        BadInput: the source cannot be used or is of another model; what stood in the folder still stands there.
    """
    place = _find(artifact, source)
    home = models_root / model.folder
    target = home / artifact
    with disk_errors(models_root), locked(models_root, f"{model.folder}-{artifact}", progress):
        present = _present(place, model, target)
        if present is not None:
            return present
        with staged(home, artifact) as staging:
            started = time.monotonic()
            facts = _fill(place, model, staging, models_root, progress)
            progress(f"{place.what}: computing digests")
            record = ArtifactRecord.of_folder(
                staging,
                artifact=artifact,
                source_digest=model.digest,
                converter_digest=RECIPE,
                made_by="the Hugging Face hub" if place.folder is None else "a local folder",
                seconds=round(time.monotonic() - started, 3),
                facts={**facts, "given": place.given, "origin": place.origin()},
            )
            write_file(staging / layout.ARTIFACT_FILE, record.to_json().encode())
            replace_folder(staging, target)
    return record


def _find(artifact: str, source: str) -> _Source:
    """Reads ``SOURCE``; what exists here wins over the hub, as for models."""
    if artifact in (layout.HF_ARTIFACT, layout.NO_ARTIFACT) or not layout.is_name(artifact):
        raise BadInput(f"{artifact!r} cannot be given as an artifact", "the model itself is named by --model")
    if not source or "\0" in source:
        raise BadInput(f"artifact {artifact}: no source", _KNOWN_SOURCES)
    folder = Path(source).expanduser()
    try:
        exists = folder.exists()
    except OSError as error:
        raise BadInput(f"artifact {artifact}: {source[:80]}: {error.strerror or error}", _KNOWN_SOURCES) from error
    if exists or source.startswith((".", "/", "~")):
        if not folder.is_dir():
            raise BadInput(f"artifact {artifact}: {source}: no such folder", _KNOWN_SOURCES)
        return _Source(artifact, source, folder)
    name, at, revision = source.partition("@")
    if not is_hub_id(name) or (at and not revision):
        raise BadInput(f"artifact {artifact}: {source!r} is neither a folder nor a hub id", _KNOWN_SOURCES)
    return _Source(artifact, name, None, revision or None)


def _present(place: _Source, model: ModelInfo, target: Path) -> ArtifactRecord | None:
    """The artifact that stands in the model's folder, if it is whole and from this source."""
    record = usable_artifact(target, model.digest, RECIPE)
    return record if record is not None and record.facts.get("origin") == place.origin() else None


def _fill(place: _Source, model: ModelInfo, target: Path, models_root: Path, progress: Progress) -> dict[str, str]:
    if place.folder is not None:
        files = _inspect(place)
        _require_same_model(place, files, model)
        form = _tensors(place, files)
        _require_whole(place, files)
        progress(f"{place.what}: linking {len(files.files)} files")
        return {**assemble(files, target), **form}
    # Kept when it breaks off, so that the next attempt continues; gone when all of it is in place.
    partial = models_root / f".download-{layout.slug(place.text)}-{place.origin()[:12]}"
    repository = Repository(place.text, place.revision, partial, place.what, progress)
    _download(place, repository, model, progress)
    here = _Source(place.artifact, place.text, partial)
    files = _inspect(here)
    form = _tensors(here, files)
    _require_whole(place, files)
    facts = assemble(files, target)
    remove(partial)
    return {**facts, **form, "commit": repository.commit}


def _download(place: _Source, repository: Repository, model: ModelInfo, progress: Progress) -> None:
    """Small files first, so that another model's artifact is refused before its weights travel."""
    repository.folder.mkdir(parents=True, exist_ok=True)
    repository.fetch([name for name in repository.sizes if _is_plain(name)])
    chosen = _weight_names(place, repository.folder, repository.sizes)
    _require_same_model(place, _plain(repository.folder), model)
    size = sum(repository.sizes.get(name, 0) for name in chosen)
    require_free(repository.folder, size, f"{place.what} ({readable(size)})")
    progress(f"{place.what}: downloading {readable(size)} in {len(chosen)} files, commit {repository.commit[:12]}")
    repository.fetch(chosen)
    repository.forget()


def _is_plain(name: str) -> bool:
    return matches(name, _PLAIN) and not matches(name, PICKLES) and name != layout.ARTIFACT_FILE


def _plain(folder: Path) -> ModelFolder:
    names = sorted(path.name for path in folder.iterdir() if _is_plain(path.name) and path.is_file())
    return ModelFolder({name: inside(folder, folder / name) for name in names}, {})


def _inspect(place: _Source) -> ModelFolder:
    """The files to take from a folder, checked without reading tensors.

    Raises:
        BadInput: no weights or too many, pickled or damaged ones, or a link that leaves the folder.
    """
    folder = place.folder
    assert folder is not None  # noqa: S101  # callers have a folder
    plain = _plain(folder).plain
    names = _weight_names(place, folder, [path.name for path in folder.iterdir() if path.is_file()])
    found = {name: inside(folder, folder / name) for name in names}
    shards = [name for name in names if name.endswith(".safetensors")]
    if shards:
        weights.check_shards(folder, shards)
    for name, path in found.items():
        with path.open("rb") as stream:
            if name == _BINARY_WEIGHTS and stream.read(2).startswith(_PICKLE_STARTS):
                raise _pickled(place, name)
    return ModelFolder(plain, found)


def _tensors(place: _Source, files: ModelFolder) -> dict[str, str]:
    """What the weights are, for the record, from their headers and small tensors: a label is no proof.

    Raises:
        BadInput: something else than the artifact's name or the folder's config.json says, or damaged.
    """
    assert place.folder is not None  # noqa: S101  # callers have a folder
    words, problem = given_form(place.folder, place.artifact, files.files)
    if problem:
        raise BadInput(
            f"{place.what} is not what its name says: {problem}{f' ({words})' if words else ''}",
            "name the artifact after what it holds, or give one that holds what its name says",
        )
    return {"tensors": words} if words else {}


def _weight_names(place: _Source, folder: Path, names: Iterable[str]) -> list[str]:
    """Which of a source's files are the weights; ``folder`` holds the index, if there is one."""
    present = set(names)
    index = folder / weights.INDEX_FILE
    if weights.INDEX_FILE in present and index.is_file():
        shards = weights.index_names(index)
        missing = [name for name in shards if name not in present]
        if missing:
            raise BadInput(f"{place.what}: the shard {missing[0]} is missing", "take it from where it is whole")
        return shards
    single = sorted(n for n in present if matches(n, ("*.safetensors",)) and not n.startswith("consolidated"))
    whole = sorted(name for name in present if matches(name, ("*.gguf",)))
    if weights.SINGLE_FILE in single:
        return [weights.SINGLE_FILE]
    if not single and len(whole) > 1:  # a repository of all quantisations: the artifact's name says which
        form = place.artifact.partition("-")[2].lower() or place.artifact
        whole = [name for name in whole if name.lower().endswith(f"{form}.gguf")]
        if len(whole) != 1:
            raise BadInput(f"{place.what}: not one of its GGUF files ends in {form}.gguf", "give a folder with the one")
    for found in (single, whole, [_BINARY_WEIGHTS] if _BINARY_WEIGHTS in present else []):
        if len(found) > 1:
            raise BadInput(f"{place.what}: holds several weights ({found[0]}, {found[1]})", "give a folder with one")
        if found:
            return found
    pickles = sorted(name for name in present if matches(name, (*PICKLES, "*.bin", "*.ckpt", "*.pkl")))
    if pickles:
        raise _pickled(place, pickles[0])
    raise BadInput(f"{place.what}: has no weights (*.safetensors, *.gguf, {_BINARY_WEIGHTS})", _KNOWN_SOURCES)


def _pickled(place: _Source, name: str) -> BadInput:
    return BadInput(
        f"{place.what}: the weights are pickled ({name})",
        "loading one runs the code inside it; take the same in safetensors, or let an image convert the model",
    )


def _require_whole(place: _Source, files: ModelFolder) -> None:
    """Refuses safetensors that lack what the ``config.json`` beside them promises.

    Raises:
        BadInput: names what is missing.
    """
    shards = [name for name in files.weights if name.endswith(".safetensors")]
    path = files.plain.get(hf_config.CONFIG_FILE)
    if not shards or path is None:
        return
    require_whole_files(shards, place.what)
    tensors = {name: tensor for shard in shards for name, tensor in weights.read_header(files.weights[shard]).items()}
    require_complete(hf_config.read_json(path), tensors, place.what)


def _require_same_model(place: _Source, files: ModelFolder, model: ModelInfo) -> None:
    """Compares what a ``config.json`` says, where there is one and as far as it says it, with the model."""
    path = files.plain.get(hf_config.CONFIG_FILE)
    if path is None:
        return
    config = hf_config.read_json(path)
    hf_config.refuse_code(config, place.what)
    pairs: list[tuple[str, object, object]] = [
        ("vocab_size", hf_config.stated(config, "vocab_size"), model.vocab_size),
        ("hidden_size", hf_config.stated(config, "hidden_size"), model.hidden_size),
    ]
    if config.get("architectures"):
        pairs.insert(0, ("architecture", hf_config.architecture(config, place.what), model.architecture))
    for name, has, expected in pairs:
        if has is not None and has != expected:
            raise BadInput(
                f"{place.what} is not of {model.name}: its {name} is {str(has)[:80]}, the model's {expected}",
                "give an artifact of this model",
            )
