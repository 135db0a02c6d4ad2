"""Writes ``layouts.json``: names and shapes of the tensors of every causal language model that Transformers has.

Run it with Transformers and torch at hand: ``python tests/prepare/write_layouts.py``. Models are built without memory
for their weights (the meta device), from their configurations' defaults. ``layouts.json`` holds for each family
``config`` and ``tensors``: name, shape and layers, where ``{N}`` in the name stands for each of the layers.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

# Not text decoders of their own: encoders read as decoders, halves of translators, images and sound.
_LEFT_OUT = (
    "bert", "roberta", "rembert", "camembert", "electra", "ernie", "data2vec", "roformer", "xmod", "xlm", "big_bird",
    "bart", "pegasus", "blenderbot", "marian", "mvp", "prophetnet", "trocr", "whisper", "mllama", "multimodal", "blt",
)  # fmt: skip


def main() -> None:
    """Families that cannot be built from their defaults alone are left out and told."""
    layouts = {}
    for family, names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        kind = names if isinstance(names, str) else names[0]
        other = any(word in family for word in _LEFT_OUT) and family != "modernbert-decoder"
        if other or not kind.endswith(("ForCausalLM", "LMHeadModel")):
            continue
        try:
            config = CONFIG_MAPPING[family]()
            with torch.device("meta"):
                model = getattr(transformers, kind)(config)
        except Exception as error:  # noqa: BLE001  # whatever a class says against its own defaults
            sys.stderr.write(f"left out: {family}: {type(error).__name__}\n")
            continue
        tied = set(model.all_tied_weights_keys)
        tensors = {name: list(t.shape) for name, t in model.state_dict().items() if name not in tied}
        layouts[family] = {"config": _plain(config.to_dict(), kind), "tensors": _grouped(tensors)}
    lines = [f"{json.dumps(family)}: {json.dumps(layouts[family], separators=(',', ':'))}" for family in layouts]
    (Path(__file__).parent / "layouts.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _plain(config: dict[str, Any], kind: str) -> dict[str, Any]:
    kept = {k: v for k, v in config.items() if isinstance(v, int | str | list) and k not in ("id2label", "label2id")}
    plain: dict[str, Any] = json.loads(json.dumps({**kept, "architectures": [kind]}, default=str))
    return plain


def _grouped(tensors: dict[str, list[int]]) -> list[list[Any]]:
    """[name with {N}, shape, layers as ranges] in the order of the model."""
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    for name, shape in tensors.items():
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if place is None:
            groups[name, tuple(shape)] = []
            continue
        pattern = ".".join([*parts[:place], "{N}", *parts[place + 1 :]])
        groups[pattern, tuple(shape)].append(int(parts[place]))
    return [[name, list(shape), _ranges(layers)] for (name, shape), layers in groups.items()]


def _ranges(numbers: list[int]) -> str:
    """As in ``0-3,7``."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


if __name__ == "__main__":
    main()
