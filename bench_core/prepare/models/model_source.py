"""Where a model comes from: a local folder, the hub, or random numbers. Each fills an empty folder with its files."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

from pydantic import Field

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.digest import entries_sha256, file_sha256, text_sha256
from bench_core.contract.records.record import Record
from bench_core.prepare.disk import nearest_there, require_free
from bench_core.prepare.hub import is_hub_id
from bench_core.prepare.models import hf_config, hub_model, shapes, synthetic
from bench_core.prepare.models.model_folder import (
    TOKENIZER_FILES,
    ModelFolder,
    assemble,
    folder_name,
    inspect_folder,
    matches,
    must_be_copied,
    require_vocabulary,
    tokenizer_files,
)
from bench_core.prepare.prompts.tokenizer import EOS_ID
from bench_core.prepare.staging import Progress
from bench_core.system.files import remove

Action = Literal["link", "generate", "download"]
# In every record: folders made by another way of preparing are made again.
RECIPE = "hf-1"
_KNOWN_MODELS = "a model is a folder, a hub id such as owner/name, or synthetic/<shape>"


class ModelRequest(Record):
    """Which model to measure.

    Attributes:
        name: a local folder (what exists here wins over the hub), a hub id, or ``synthetic/<shape>``.
        revision: branch, tag or commit of a hub id; what was downloaded once stays until it is asked for by another.
        tokenizer: a folder whose tokenizer replaces the model's own.
        seed: of synthetic weights.
    """

    name: str
    revision: str | None = None
    tokenizer: Path | None = None
    seed: int = Field(0, ge=0)


class Source(ABC):
    """Where a model comes from.

    Attributes:
        origin: digest of what it is made from, cheap to compute: the same origin gives the same content.
        name: as reports call it.
        slug: begins its folder's name.
    """

    action: Action
    made_by: str
    synthetic = False

    def __init__(self, request: ModelRequest, models_root: Path, name: str, origin: object) -> None:
        self.request = request
        self.models_root = models_root
        self.name = name
        self.slug = layout.slug(name)
        self.origin = text_sha256(json.dumps([self.action, RECIPE, origin], default=str))

    @abstractmethod
    def bytes_expected(self) -> int | None:
        """Bytes that :meth:`fill` will write, if known."""

    @abstractmethod
    def eos_token_ids(self) -> tuple[int, ...] | None:
        """Ids that end a text; ``None`` where only the hub knows."""

    @abstractmethod
    def fill(self, target: Path, progress: Progress) -> dict[str, str]:
        """Writes the model's files into an empty folder; returns facts."""


class _Local(Source):
    action: Action = "link"
    made_by = "a local folder"

    def __init__(self, request: ModelRequest, models_root: Path, folder: Path) -> None:
        self.model = inspect_folder(folder, request.tokenizer)
        # A file is the same file while device, inode, size and time are: names alone could be another model's.
        states = {name: path.stat() for name, path in sorted(self.model.files.items())}
        origin = [(n, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for n, s in states.items()]
        super().__init__(request, models_root, folder_name(folder), origin)

    def bytes_expected(self) -> int:
        here = nearest_there(self.models_root).stat().st_dev
        states = ((path.stat(), must_be_copied(path)) for path in self.model.files.values())
        return sum(status.st_size for status, copied in states if copied or status.st_dev != here)

    def eos_token_ids(self) -> tuple[int, ...]:
        return hf_config.eos_token_ids_of(self.model.plain)

    def fill(self, target: Path, progress: Progress) -> dict[str, str]:
        progress(f"model {self.name}: linking {len(self.model.files)} files")
        return assemble(self.model, target)


class _Synthetic(Source):
    action: Action = "generate"
    made_by = "random weights"
    synthetic = True

    def __init__(self, request: ModelRequest, models_root: Path) -> None:
        self.shape = shapes.shape_of(request.name)
        if request.tokenizer is not None:
            require_vocabulary(request.tokenizer, self.shape.vocab_size)
        origin = [synthetic.RECIPE, repr(self.shape), request.seed, _tokenizer_state(request.tokenizer)]
        super().__init__(request, models_root, request.name, origin)

    def bytes_expected(self) -> int:
        return self.shape.weight_bytes

    def eos_token_ids(self) -> tuple[int, ...]:
        return (EOS_ID,)

    def fill(self, target: Path, progress: Progress) -> dict[str, str]:
        require_free(self.models_root, self.shape.weight_bytes, f"model {self.request.name}")
        synthetic.write_synthetic(self.shape, self.request.seed, target, progress)
        if self.request.tokenizer is not None:
            for path in target.iterdir():
                if matches(path.name, TOKENIZER_FILES):
                    path.unlink()
            assemble(ModelFolder(tokenizer_files(self.request.tokenizer), {}), target)
        return {"shape": self.request.name, "seed": str(self.request.seed)}


class _Hub(Source):
    action: Action = "download"
    made_by = "the Hugging Face hub"

    def __init__(self, request: ModelRequest, models_root: Path) -> None:
        tokenizer = _tokenizer_state(request.tokenizer)
        origin = [request.name, request.revision, tokenizer, False]  # False: as older records have it
        super().__init__(request, models_root, request.name, origin)

    def bytes_expected(self) -> None:
        return None

    def eos_token_ids(self) -> None:
        return None

    def fill(self, target: Path, progress: Progress) -> dict[str, str]:
        request = self.request
        # Kept when it breaks off, so that the next attempt continues; gone when all of it is in place.
        partial = self.models_root / f".download-{self.slug}-{self.origin[:12]}"
        commit = hub_model.download(
            request.name,
            request.revision,
            partial,
            progress,
            own_tokenizer=request.tokenizer is None,
        )
        facts = assemble(inspect_folder(partial, request.tokenizer), target)
        remove(partial)
        return {**facts, "commit": commit}


def find_source(request: ModelRequest, models_root: Path) -> Source:
    """The source that a request names, checked as far as that is cheap: no network, no tensor is read.

    Raises:
        BadInput: it cannot be used.
    """
    try:
        return _choose(request, models_root)
    except OSError as error:
        raise BadInput(f"{error.filename or request.name}: {error.strerror or error}", _KNOWN_MODELS) from error


def _choose(request: ModelRequest, models_root: Path) -> Source:
    name = request.name
    if request.tokenizer is not None:
        tokenizer_files(request.tokenizer)
    if shapes.is_synthetic(name):
        _no_revision(request)
        return _Synthetic(request, models_root)
    if not name or "\0" in name:
        raise BadInput(f"not a model: {name!r}", _KNOWN_MODELS)
    folder = Path(name).expanduser()
    if folder.exists() or name.startswith((".", "/", "~")) or not is_hub_id(name):
        _no_revision(request)
        return _Local(request, models_root, folder)
    return _Hub(request, models_root)


def _no_revision(request: ModelRequest) -> None:
    if request.revision is not None:
        raise BadInput(f"{request.name}: a revision, but this model is not from the hub", "leave --revision out")


def _tokenizer_state(folder: Path | None) -> str:
    if folder is None:
        return ""
    return entries_sha256((name, file_sha256(path)) for name, path in tokenizer_files(folder).items())
