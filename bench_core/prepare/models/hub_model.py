"""A model from the Hugging Face hub: only the files that are needed, and the small ones first."""

from __future__ import annotations

import glob
import sys
from pathlib import Path

from bench_core.contract.errors import BadInput
from bench_core.prepare.disk import readable, require_free
from bench_core.prepare.hub import hub_errors
from bench_core.prepare.models import hf_config, weights
from bench_core.prepare.models.completeness import MERGE, require_whole_files
from bench_core.prepare.models.model_folder import (
    ADAPTER_FILE,
    CONFIG_FILES,
    PICKLE_HINT,
    PICKLES,
    TOKENIZER_FILES,
    matches,
)
from bench_core.prepare.prompts.tokenizer import tokenizer_file
from bench_core.prepare.staging import Progress
from bench_core.system.files import remove

_WORKERS = 4


class Repository:
    """One revision of a repository on the hub, fetched into a folder; what an earlier attempt left is continued.

    Attributes:
        sizes: file name to bytes.
        commit: the revision's.
    """

    def __init__(self, name: str, revision: str | None, folder: Path, what: str, progress: Progress) -> None:
        """Asks the hub what there is.

        Raises:
            BadInput: the hub's refusals; ``what`` names the thing in them.
        """
        import huggingface_hub  # noqa: PLC0415 - heavy
        from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415 - heavy

        if not sys.stderr.isatty():
            disable_progress_bars()
        progress(f"{what}: asking the Hugging Face hub")
        with hub_errors(what):
            info = huggingface_hub.HfApi().model_info(name, revision=revision, files_metadata=True)
        self.sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        self.commit = str(info.sha)
        self.folder = folder
        self._name = name
        self._what = what

    def fetch(self, names: list[str]) -> None:
        """Downloads files of the repository.

        Raises:
            BadInput: the hub's refusals.
        """
        import huggingface_hub  # noqa: PLC0415 - heavy

        with hub_errors(self._what):
            huggingface_hub.snapshot_download(
                self._name,
                revision=self.commit,
                local_dir=self.folder,
                allow_patterns=[glob.escape(name) for name in names],  # names, not patterns
                max_workers=_WORKERS,
            )

    def forget(self) -> None:
        """Removes the library's notes for continuing."""
        remove(self.folder / ".cache")


def download(name: str, revision: str | None, target: Path, progress: Progress, *, own_tokenizer: bool) -> str:
    """Downloads a model's files into ``target`` and returns the commit; what an earlier attempt left is continued.

    Configuration and tokenizer come first, so that a model which cannot be used is refused before its weights.

    Raises:
        BadInput: the hub's refusals, a model that cannot be used, or no room on the disk.
    """
    what = f"model {name}"
    repository = Repository(name, revision, target, what, progress)
    sizes = repository.sizes
    if hf_config.CONFIG_FILE not in sizes:
        if ADAPTER_FILE in sizes:
            raise BadInput(f"{what}: holds an adapter (LoRA), not a model", MERGE)
        raise BadInput(f"{what}: has no {hf_config.CONFIG_FILE}", "it is not a transformers model")
    repository.fetch([n for n in sizes if matches(n, (*CONFIG_FILES, *TOKENIZER_FILES, weights.INDEX_FILE))])
    hf_config.check_config(hf_config.read_json(target / hf_config.CONFIG_FILE), what)
    if own_tokenizer:
        tokenizer_file(target)
    shards = weight_names(what, target, sizes)
    size = sum(sizes[shard] for shard in shards)
    require_free(target, size, f"{what} ({readable(size)})")
    progress(f"{what}: downloading {readable(size)} in {len(shards)} files, commit {repository.commit[:12]}")
    repository.fetch(shards)
    repository.forget()
    return repository.commit


def weight_names(what: str, folder: Path, sizes: dict[str, int]) -> list[str]:
    """Which of a repository's files are its weights; ``folder`` holds the index, if there is one.

    Raises:
        BadInput: none, only pickled ones, not all shards, an adapter's, or an index that names what is not there.
    """
    index = folder / weights.INDEX_FILE
    if index.is_file():
        names = weights.index_names(index)
        missing = [name for name in names if name not in sizes]
        if missing:
            raise BadInput(f"{what}: the shard {missing[0]} is missing on the hub", "another revision may be whole")
        require_whole_files(names, what)
        return names
    # Some repositories hold the same weights a second time in another layout.
    single = [n for n in sizes if matches(n, ("*.safetensors",)) and not n.startswith("consolidated")]
    if weights.SINGLE_FILE in single:
        return [weights.SINGLE_FILE]
    if len(single) == 1:
        require_whole_files(single, what)
        return single
    pickles = [name for name in sizes if matches(name, PICKLES)]
    if not pickles:
        raise BadInput(f"{what}: has no weights (*.safetensors)", "give a repository that holds them")
    raise BadInput(f"{what}: the weights are pickled ({pickles[0]})", PICKLE_HINT)
