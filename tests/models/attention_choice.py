"""Which attention an image's adapter takes for a checkpoint, and whether its scores are those of the plain one.

Runs in an image that builds on transformers, in the folder of its adapter:

    python attention_choice.py CLASS OPTIONS FOLDER ...

Prints one JSON line for each checkpoint: ``attention`` as the adapter tells it, and how far its log-probabilities lie
from those of the model with the attention named ``eager`` and, where the model has it, ``sdpa``.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from bench_core.contract.adapter import Device, Variant

IDS = [5, 9, 200, 31, 77, 12, 150, 8, 64, 3, 99, 41]


def scores(folder: Path, attention: str) -> list[float] | None:
    """Of the model itself."""
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()
    except ValueError:
        return None
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0, :-1].log_softmax(-1)
    return [float(row[token]) for row, token in zip(logits, IDS[1:], strict=True)]


def distance(one: list[float], other: list[float] | None) -> float | None:
    """The largest."""
    return None if other is None else max(abs(a - b) for a, b in zip(one, other, strict=True))


sys.path.insert(0, str(Path.cwd()))  # this file's own folder is there instead
adapter = importlib.import_module("adapter")
for name in sys.argv[3:]:
    engine = getattr(adapter, sys.argv[1])()
    engine.load(Path(name), Variant("v", "hf", json.loads(sys.argv[2])), Device("cpu", None, 1))
    engine.prepare(1, 16, 4)
    own = engine.score(IDS)
    found = {kind: distance(own, scores(Path(name), kind)) for kind in ("eager", "sdpa")}
    line = {"name": Path(name).name, "attention": engine.describe()["attention"], **found}
    sys.stdout.write(f"{json.dumps(line)}\n")
