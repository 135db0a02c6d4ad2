"""A model's ``hf`` artifact under ``models/``: linked from a folder, downloaded, or made of random weights.

``models/<name>-<digest>/{model.json, hf/{..., artifact.json}}``. The digest is that of the content. A folder appears
in one step and whole; ``hf/artifact.json`` keeps what each file was, so that damage is seen and repaired, and under
``origin`` what it was made from, so that a later run finds it without reading the source again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench_core.contract.errors import BadInput
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.models.tensor_names import HEADS
from bench_core.contract.records import layout
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.contract.records.record import Record
from bench_core.prepare.models import hf_config, weights
from bench_core.prepare.models.completeness import require_complete
from bench_core.prepare.models.decoder_facts import decoder_facts
from bench_core.prepare.models.model_source import RECIPE, Action, ModelRequest, Source, find_source
from bench_core.prepare.staging import Progress, disk_errors, locked, quiet, staged
from bench_core.system.files import replace_folder, write_file

__all__ = ["ModelPlan", "ModelRequest", "plan_model", "prepare_model"]


class ModelPlan(Record):
    """What preparing would do.

    Attributes:
        action: ``present``: nothing.
        folder: the model's folder under ``models/``, once it is known.
        bytes_expected: bytes to write there; 0 for links, ``None`` where only the hub knows.
        remark: one line, such as that the present copy is damaged; empty where there is nothing to say.
        model: the facts, where the model is present.
        eos_token_ids: its ends of text; ``None`` where only the hub knows.
    """

    name: str
    action: Literal["present"] | Action
    folder: str | None = None
    bytes_expected: int | None = None
    remark: str = ""
    model: ModelInfo | None = None
    eos_token_ids: tuple[int, ...] | None = None


def plan_model(request: ModelRequest, models_root: Path) -> ModelPlan:
    """Says what preparing would do. Writes nothing, asks no network; a damaged copy is noticed.

    Raises:
        BadInput: the request cannot be met, as far as that shows here.
    """
    source = find_source(request, models_root)
    kept = _find(models_root, source)
    if kept is not None and kept.damage is None:
        info = _describe(kept.folder / layout.HF_ARTIFACT, source, kept.record.digest, kept.folder.name)
        return ModelPlan(
            name=request.name,
            action="present",
            folder=info.folder,
            bytes_expected=0,
            model=info,
            eos_token_ids=info.eos_token_ids,
        )
    remark = f"the copy in {kept.folder.name} is damaged: {kept.damage}" if kept else ""
    return ModelPlan(
        name=request.name,
        action=source.action,
        bytes_expected=source.bytes_expected(),
        remark=remark,
        eos_token_ids=source.eos_token_ids(),
    )


def prepare_model(request: ModelRequest, models_root: Path, progress: Progress = quiet) -> ModelInfo:
    """Makes sure that the model's folder is there and whole, and returns its facts. Safe beside other processes.

    Raises:
        BadInput: the request cannot be met; nothing under ``models/`` has changed (a broken download is kept aside
            and continued next time).
    """
    source = find_source(request, models_root)
    with disk_errors(models_root), locked(models_root, source.slug, progress):
        kept = _find(models_root, source)
        if kept is not None and kept.damage is None:
            info = _describe(kept.folder / layout.HF_ARTIFACT, source, kept.record.digest, kept.folder.name)
            _write_info(kept.folder, info)
            return info
        if kept is not None:
            progress(f"model {source.name}: {kept.folder.name} is damaged ({kept.damage}); making it again")
        with staged(models_root, source.slug) as staging:
            return _make(source, staging, models_root, progress)


@dataclass(frozen=True)
class _Kept:
    folder: Path
    record: ArtifactRecord
    damage: str | None


def _find(models_root: Path, source: Source) -> _Kept | None:
    """The folder that was made from this source, whole or damaged."""
    name = re.compile(re.escape(source.slug) + r"-[0-9a-f]{12}")
    if not models_root.is_dir():
        return None
    for folder in sorted(p for p in models_root.iterdir() if name.fullmatch(p.name)):
        hf = folder / layout.HF_ARTIFACT
        try:
            record = ArtifactRecord.read(hf / layout.ARTIFACT_FILE)
        except BadInput:
            continue
        if record.facts.get("origin") == source.origin:
            return _Kept(folder, record, record.damage(hf))
    return None


def _make(source: Source, staging: Path, models_root: Path, progress: Progress) -> ModelInfo:
    started = time.monotonic()
    hf = staging / layout.HF_ARTIFACT
    hf.mkdir()
    facts = source.fill(hf, progress)
    progress(f"model {source.name}: computing digests")
    record = ArtifactRecord.of_folder(
        hf,
        artifact=layout.HF_ARTIFACT,
        source_digest=None,
        converter_digest=RECIPE,
        made_by=source.made_by,
        seconds=time.monotonic() - started,
        facts={**facts, "origin": source.origin},
    )
    folder = models_root / f"{source.slug}-{record.digest[:12]}"
    info = _describe(hf, source, record.digest, folder.name)
    write_file(hf / layout.ARTIFACT_FILE, record.to_json().encode())
    if not folder.exists():
        _write_info(staging, info)
        replace_folder(staging, folder)
        return info
    # The same content under another origin, or a damaged copy. Artifacts made from it stand beside: they stay.
    present = folder / layout.HF_ARTIFACT
    try:
        kept = ArtifactRecord.read(present / layout.ARTIFACT_FILE)
        whole = kept.digest == record.digest and kept.damage(present) is None
    except BadInput:
        whole = False
    if whole:
        renamed = kept.model_copy(update={"facts": {**kept.facts, "origin": source.origin}})
        write_file(present / layout.ARTIFACT_FILE, renamed.to_json().encode())
    else:
        replace_folder(hf, present)
    _write_info(folder, info)
    return info


def _write_info(folder: Path, info: ModelInfo) -> None:
    """Writes ``model.json`` unless it stands there already."""
    path = folder / layout.MODEL_FILE
    content = info.to_json().encode()
    if not path.is_file() or path.read_bytes() != content:
        write_file(path, content)


def _describe(hf: Path, source: Source, digest: str, folder: str) -> ModelInfo:
    """The facts of a model, from its configuration and the headers of its weights."""
    origin = source.name
    config = hf_config.read_json(hf / hf_config.CONFIG_FILE)
    generation_path = hf / hf_config.GENERATION_FILE
    generation = hf_config.read_json(generation_path) if generation_path.is_file() else {}
    sizes = hf_config.dimensions(config, origin)
    names = weights.shard_names(hf)
    tensors = weights.check_shards(hf, names)
    require_complete(config, tensors, origin)  # of one that was fetched long ago, too
    tied = _is_tied(config, hf, names, tensors)
    kept = weights.weights_only(tensors)
    return ModelInfo(
        name=source.name,
        folder=folder,
        digest=digest,
        synthetic=source.synthetic,
        architecture=hf_config.architecture(config, origin),
        dtype=weights.stored_dtype(kept, origin),
        parameters=weights.count_parameters(tensors, tied),
        tied_embeddings=tied,
        decoder=decoder_facts(config, sizes, kept, tied),
        **sizes,
        **hf_config.special_ids(config, generation, sizes["vocab_size"]),
    )


def _is_tied(config: hf_config.Json, hf: Path, names: list[str], tensors: Mapping[str, weights.Tensor]) -> bool:
    """Whether the table of input embeddings is the output layer as well: as the file says unless the weights show that
    there are two."""
    stored = any(name.endswith(HEADS) for name in tensors)
    says = config.get("tie_word_embeddings")
    if not isinstance(says, bool):
        return not stored
    return says and not (stored and weights.holds_own_head(hf, names))
