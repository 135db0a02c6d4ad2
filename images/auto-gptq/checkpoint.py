"""A GPTQ folder as this engine and its Transformers of 2024 read it. Imports no engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench_core.contract.errors import BadInput
from bench_core.contract.records.artifact_form import other_form
from images._torch.unsupported import Unsupported

_ARTIFACT = "gptq-int4-g128"
_CONFIG = "config.json"
_KERNEL_COLUMNS = 32  # the compiled kernels read whole blocks of so many


def checked_settings(artifact: Path) -> dict[str, Any]:
    """``config.json`` of a folder that the engine reads right.

    Raises:
        BadInput: not a 4-bit GPTQ folder in the first format.
        Unsupported: a kind of model or of rotation, or widths, that the engine or its Transformers does not know.
    """
    settings: dict[str, Any] = json.loads((artifact / _CONFIG).read_text(encoding="utf-8"))
    form = other_form(artifact, _ARTIFACT)
    if form is not None:
        raise BadInput(f"{artifact.name} is {form}", f"this variant reads {_ARTIFACT}")
    quantisation = settings["quantization_config"]
    if quantisation.get("checkpoint_format", "gptq") != "gptq":
        raise BadInput(f"{artifact.name} is not GPTQ's first format", "quantise it again")
    heads, hidden = settings["num_attention_heads"], settings["hidden_size"]
    if (settings.get("head_dim") or hidden // heads) * heads != hidden:
        raise Unsupported("Transformers 4.41 takes the width of a head to be hidden_size / num_attention_heads")
    kind = _rotation(settings).get("rope_type", _rotation(settings).get("type", "default"))
    if kind != "default":
        raise Unsupported(f"this image does not scale rotations by {kind!r}")
    group_size = int(quantisation["group_size"])
    for name in ("hidden_size", "intermediate_size"):
        if settings[name] % group_size or settings[name] % _KERNEL_COLUMNS:
            raise Unsupported(f"{name} {settings[name]} is not in whole groups of {group_size} and blocks of 32")
    if settings.get("num_key_value_heads", heads) * (hidden // heads) % _KERNEL_COLUMNS:
        raise Unsupported("keys and values are not in whole blocks of 32 columns")
    return settings


def folder_as_the_engine_reads_it(artifact: Path, settings: Mapping[str, Any], folder: Path) -> None:
    """Fills an empty folder with links to the artifact's files and a ``config.json`` in the older manner.

    Transformers 5 writes the rotations' base into ``rope_parameters``, where 4.41 does not look for it: it would take
    10000 for every model.
    """
    for path in artifact.iterdir():
        if path.is_file() and path.name != _CONFIG:
            (folder / path.name).symlink_to(path.absolute())
    older = {name: value for name, value in settings.items() if name not in ("rope_parameters", "dtype")}
    theta = settings.get("rope_theta") or _rotation(settings).get("rope_theta") or 10000.0
    older |= {"rope_theta": float(theta), "rope_scaling": None, "torch_dtype": "float16"}
    (folder / _CONFIG).write_text(json.dumps(older), encoding="utf-8")


def _rotation(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    rotation: Mapping[str, Any] = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    return rotation
