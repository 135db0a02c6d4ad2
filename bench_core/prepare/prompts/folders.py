"""Which files of a folder of data belong to which split, as the Hugging Face hub lays datasets out.

A README.md of the hub's kind says so in its head. Else a file named ``NAME-00000-of-00002.…`` is of the split NAME.
Else a file whose name, or whose folder's name, has one of the hub's words for a split is of that split. Where no file
says anything, all are one split. The library ``datasets`` would read such a folder, but takes the path for a pattern
and silently leaves out files of a second form.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.records import layout
from bench_core.prepare.prompts.files import form_of
from bench_core.prepare.staging import Progress

ONLY_SPLIT = "train"
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}
# What the hub and save_to_disk keep beside the data.
_NOT_DATA = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\b")
_HEAD = re.compile(r"\A---\s*\n(.*?\n)---\s*$", re.DOTALL | re.MULTILINE)


def data_files(folder: Path) -> list[Path]:
    """Files with columns below a folder, in the order of their paths; hidden ones are left out."""
    return [path for path in _below(folder) if _kind(path) not in (None, "text") and path.name not in _NOT_DATA]


def plain_texts(folder: Path) -> list[Path]:
    """Text files right in a folder, in the order of their names."""
    return [path for path in _below(folder) if path.parent == folder and _kind(path) == "text"]


def files_of_split(folder: Path, files: Sequence[Path], split: str, progress: Progress) -> list[Path]:
    """The data files of one split. An only split is taken whatever its name, because local files seldom name one.

    Raises:
        BadInput: no such split among several, several subsets, or files of several forms.
    """
    splits = _splits(folder, files)
    if split not in splits and len(splits) == 1:
        only = next(iter(splits))
        progress(f"{folder}: has no split {split!r}; taking its only one, {only!r}")
        split = only
    if split not in splits:
        raise BadInput(f"{folder}: no split {split!r}", f"splits: {', '.join(splits) or 'none'}")
    chosen = splits[split]
    kinds = Counter(str(_kind(path)) for path in chosen)
    if len(kinds) > 1:
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        raise BadInput(
            f"{folder}: files of several forms: {found}", "name one file, or a folder that holds files of one form"
        )
    others = sum(map(len, splits.values())) - len(chosen)
    left = len(files) - len(chosen) - others
    if left:
        progress(f"{folder}: data files of no split, left out: {left}")
    return chosen


def _kind(path: Path) -> str | None:
    form = form_of(path)
    return form.kind if form else None


def _below(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if not layout.is_hidden(path.relative_to(folder)))
    return sorted(path for path in found if path.is_file())


def _splits(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    told = _told_by_readme(folder, files)
    if told is not None:
        return told
    for name_of in (_shard_of, _word_of_name, _word_of_folder):
        named: dict[str, list[Path]] = {}
        for path in files:
            split = name_of(path.relative_to(folder))
            if split is not None:
                named.setdefault(split, []).append(path)
        if named:
            return named
    return {ONLY_SPLIT: list(files)}


def _shard_of(path: Path) -> str | None:
    found = _SHARD.match(path.name)
    words = found[1] if found else ""
    return _split_in(words) or words or None


def _word_of_name(path: Path) -> str | None:
    return _split_in(path.name)


def _word_of_folder(path: Path) -> str | None:
    return next((split for part in reversed(path.parts[:-1]) if (split := _split_in(part))), None)


def _split_in(name: str) -> str | None:
    return next((split for word in re.split(r"[-._ 0-9]+", name.lower()) if (split := _SPLIT_OF_WORD.get(word))), None)


# --- what the head of a README.md says ---


def _told_by_readme(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]] | None:
    config = _config(folder)
    if config is None or not config.get("data_files"):
        return None
    told = config["data_files"]
    if isinstance(told, str) or (isinstance(told, list) and all(isinstance(part, str) for part in told)):
        told = [{"split": ONLY_SPLIT, "path": told}]
    splits: dict[str, list[Path]] = {}
    try:
        for part in told:
            patterns = [part["path"]] if isinstance(part["path"], str) else part["path"]
            meant = {path for pattern in patterns for path in folder.glob(pattern)}
            splits[str(part["split"])] = [path for path in files if path in meant]
    except (TypeError, KeyError, ValueError, NotImplementedError) as error:
        raise BadInput(
            f"{folder / 'README.md'}: data_files in its head: {first_line(error)}", "name the file that you mean"
        ) from error
    return {split: paths for split, paths in splits.items() if paths} or None


def _config(folder: Path) -> Mapping[str, Any] | None:
    """The only subset that a README.md tells of, or the one that it calls the default."""
    readme = folder / "README.md"
    if not readme.is_file():
        return None
    head = _HEAD.match(readme.read_text(encoding="utf-8", errors="replace"))
    try:
        content = yaml.safe_load(head[1]) if head else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return None  # a README that is no dataset's
    told = content.get("configs") if isinstance(content, dict) else None
    configs = [config for config in told if isinstance(config, dict)] if isinstance(told, list) else []
    if len(configs) > 1:
        default = [c for c in configs if c.get("default") is True or c.get("config_name") == "default"]
        if len(default) != 1:
            names = ", ".join(str(config.get("config_name")) for config in configs)
            raise BadInput(f"{folder}: holds several subsets: {names}", "give the folder or the file of one of them")
        configs = default
    return configs[0] if configs else None
