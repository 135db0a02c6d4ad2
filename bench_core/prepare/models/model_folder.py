"""A model's folder as a person or the hub gives it: what is taken from it, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from bench_core.contract.errors import BadInput
from bench_core.prepare.disk import require_free
from bench_core.prepare.models import hf_config, weights
from bench_core.prepare.models.completeness import MERGE, require_complete, require_whole_files
from bench_core.prepare.prompts.tokenizer import TOKENIZER_CONFIG_FILE, load_tokenizer, tokenizer_file

CONFIG_FILES = (hf_config.CONFIG_FILE, hf_config.GENERATION_FILE)
TOKENIZER_FILES = ("tokenizer*.json", "special_tokens_map.json", "tokenizer.model", "vocab.json", "merges.txt")
ADAPTER_FILE = "adapter_config.json"
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "*.pt", "*.pth")
PICKLE_HINT = (
    "loading one runs the code inside it; if you trust it, let transformers save it anew: "
    "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW), and the same with AutoTokenizer"
)


@dataclass(frozen=True)
class ModelFolder:
    """What is taken from a folder: name to the real file behind it.

    Attributes:
        plain: configuration and tokenizer.
        weights: shards and their index, or what another format has in their place.
    """

    plain: Mapping[str, Path]
    weights: Mapping[str, Path]

    @property
    def files(self) -> dict[str, Path]:
        """All of them."""
        return {**self.plain, **self.weights}

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files.values())


def folder_name(folder: Path) -> str:
    """What a model's folder is called; a snapshot in the hub's cache has its repository's name."""
    home = folder.expanduser().resolve()
    if _blobs(home) is not None:
        return home.parent.parent.name.removeprefix("models--").replace("--", "/")
    return home.name or "model"


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a file's name, without any folder, is on a list of patterns."""
    return "/" not in name and any(fnmatchcase(name, pattern) for pattern in patterns)


def inspect_folder(folder: Path, tokenizer: Path | None) -> ModelFolder:
    """Checks a model's folder without reading its tensors; ``tokenizer`` names another folder to take that part from.

    Raises:
        BadInput: missing folder, configuration, tokenizer or weights; code or pickles; damaged weights, or fewer than
            the configuration says; a link that leaves the folder; a tokenizer from elsewhere with ids past the
            model's vocabulary.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such model folder", "give a folder, a hub id, or synthetic/tiny")
    config_path = folder / hf_config.CONFIG_FILE
    if not config_path.is_file():
        if (folder / ADAPTER_FILE).is_file():
            raise BadInput(f"{folder}: holds an adapter (LoRA), not a model", MERGE)
        raise BadInput(f"{folder}: has no {hf_config.CONFIG_FILE}", "a model folder is what save_pretrained writes")
    config = hf_config.read_json(inside(folder, config_path))
    hf_config.check_config(config, str(folder))
    sizes = hf_config.dimensions(config, str(folder))
    plain = _pick(folder, CONFIG_FILES)
    plain.update(tokenizer_files(tokenizer or folder))
    if tokenizer is not None:
        require_vocabulary(tokenizer, sizes["vocab_size"])
    return ModelFolder(plain, _weights(folder, config))


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """A folder's tokenizer: name to real file.

    Raises:
        BadInput: no ``tokenizer.json``, or a link that leaves the folder.
    """
    tokenizer_file(folder)
    return _pick(folder, TOKENIZER_FILES)


def require_vocabulary(tokenizer: Path, vocab_size: int) -> None:
    """Refuses a tokenizer that can give ids without a row in the model's embedding.

    Raises:
        BadInput: it can.
    """
    ids = load_tokenizer(tokenizer).vocab_size
    if ids > vocab_size:
        raise BadInput(
            f"{tokenizer}: {ids} token ids, but the model's vocabulary has {vocab_size}",
            "the tokenizer belongs to another model",
        )


def inside(folder: Path, path: Path) -> Path:
    """The real file behind a path. Links may lead elsewhere in the folder, or to the blobs of the hub's cache.

    Raises:
        BadInput: it leads anywhere else, or to nothing.
    """
    home = folder.resolve()
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise BadInput(f"{path}: a link to nothing", "fetch the model again") from error
    if not real.is_relative_to(home) and real.parent != _blobs(home):
        raise BadInput(f"{path}: a link that leads out of its folder", "put the file itself there")
    if not real.is_file():
        raise BadInput(f"{path}: not a file", "fetch the model again")
    return real


def assemble(model: ModelFolder, target: Path) -> dict[str, str]:
    """Puts a model's files into an empty folder: hard links where the disk allows, else copies; returns facts.

    A file that only its owner may read is copied too where root prepares, whose containers do not run as root: the
    copy may be read, and the mode of the person's own file, which a link would share, stays as it is.

    ``config.json`` and ``tokenizer_config.json`` are written anew where engines of transformers 4 and 5 need it.

    Raises:
        BadInput: copies are needed and there is no room for them.
        OSError: the target is not writable.
    """
    linked = copied = 0
    for name, path in model.files.items():
        if not must_be_copied(path):
            try:
                os.link(path, target / name)
                linked += 1
                continue
            except OSError:  # another disk, no links there, or not allowed: the copy says what is truly wrong
                pass
        if not copied:
            require_free(target, model.size_bytes, "a copy of the model")
        shutil.copyfile(path, target / name)
        copied += 1
    rewritten = [
        name
        for name, portable in (
            (hf_config.CONFIG_FILE, hf_config.portable_config),
            (TOKENIZER_CONFIG_FILE, hf_config.portable_tokenizer_config),
        )
        if name in model.plain and _rewrite(target / name, portable(hf_config.read_json(target / name)))
    ]
    facts = {"linked_files": str(linked), "copied_files": str(copied)}
    return {**facts, "rewritten": ", ".join(rewritten)} if rewritten else facts


def must_be_copied(path: Path) -> bool:
    """Whether a link would leave containers without the right to read: root's run as another user."""
    return os.getuid() == 0 and not path.stat().st_mode & stat.S_IROTH


def _blobs(home: Path) -> Path | None:
    """The hub's cache is models--owner--name/{snapshots/<commit>/<links>, blobs/<content>}."""
    return home.parent.parent / "blobs" if home.parent.name == "snapshots" else None


def _rewrite(path: Path, content: hf_config.Json) -> bool:
    if hf_config.read_json(path) == content:
        return False
    path.unlink()  # it may be a hard link: the person's own file must stay as it is
    path.write_bytes(json.dumps(content, indent=2).encode() + b"\n")
    return True


def _pick(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    names = sorted(path.name for path in folder.iterdir() if matches(path.name, patterns))
    return {name: inside(folder, folder / name) for name in names}


def _weights(folder: Path, config: hf_config.Json) -> dict[str, Path]:
    names = weights.shard_names(folder)
    if not names:
        pickles = _pick(folder, PICKLES)
        if pickles:
            raise BadInput(f"{folder}: the weights are pickled ({next(iter(pickles))})", PICKLE_HINT)
        raise BadInput(f"{folder}: has no weights (*.safetensors)", "the folder is incomplete: fetch the model again")
    require_whole_files(names, str(folder))
    index = [weights.INDEX_FILE] if (folder / weights.INDEX_FILE).is_file() else []
    found = {name: inside(folder, folder / name) for name in (*names, *index)}
    tensors = weights.check_shards(folder, names)
    weights.stored_dtype(tensors, str(folder))
    require_complete(config, tensors, str(folder))
    return found
