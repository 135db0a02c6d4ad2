"""ONNX models by ONNX Runtime GenAI's own builder, of the precision that the artifact's name says (``ort-*``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime_genai
import torch
import transformers
from adapter import OnnxRuntimeGenAiAdapter
from tokenizers import Tokenizer, models

from bench_core.contract.adapter import Conversion, Device, Variant
from bench_core.contract.errors import BadInput
from images._torch.pretrained import attention_of, read_whole
from images._torch.same_function import Engine, require_same_function

_PREFIX = "ort-"
# What the builder is told beyond the precision: nothing, its defaults. 4 bits are in blocks of 32, symmetric, and
# multiply activations rounded to 8 bits (accuracy level 4).
_PRECISIONS = ("int4", "fp32")
# Rows of the head come in groups of so many, for its kernels.
_GRAIN = 64


def to_onnx(conversion: Conversion) -> Mapping[str, str]:
    """Writes ``model.onnx`` with its data and ``genai_config.json``, whose vocabulary has ids that no text has.

    Facts: bytes of the initializers by their type, and how many ids were added.

    Raises:
        BadInput: the artifact's name does not tell a precision, or the engine computes another function than the
            model's configuration asks for.
        MissingWeights: the checkpoint lacks some.
        RuntimeError: the builder failed, with its last line.
    """
    precision = conversion.artifact.removeprefix(_PREFIX)
    if not conversion.artifact.startswith(_PREFIX) or precision not in _PRECISIONS:
        raise BadInput(
            f"{conversion.artifact} is no artifact of ONNX Runtime GenAI",
            f"{_PREFIX} followed by {', '.join(_PRECISIONS)}",
        )
    torch.set_num_threads(conversion.device.threads)
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(conversion.source, local_files_only=True)
    function = require_same_function(config, _ENGINE)
    added = _build(conversion.source, conversion.target, precision)
    return {"stored_bytes": _stored_bytes(conversion.target), "added_ids": str(added), "function": function}


def _build(source: Path, target: Path, precision: str) -> int:
    """Returns the number of ids that were added to the vocabulary.

    The engine knows no length but the one that ends where a sequence does: it takes no empty list of ends, and can only
    forbid what is in the list. A batch is padded with an id that it takes for padding in prompts as well. So the model
    gets ids that are in no prompt, and these are its ends, forbidden, and its padding.
    """
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        folder, cache = Path(scratch) / "model", Path(scratch) / "cache"
        model = read_whole(source, dtype="auto", attn_implementation=attention_of(source))
        size = int(model.get_input_embeddings().num_embeddings)
        grown = (size // _GRAIN + 1) * _GRAIN
        model.resize_token_embeddings(grown, mean_resizing=False)
        with torch.no_grad():
            model.get_input_embeddings().weight[size:] = 0
            model.get_output_embeddings().weight[size:] = 0
        model.config.bos_token_id = model.generation_config.bos_token_id = None
        model.config.eos_token_id = model.generation_config.eos_token_id = list(range(size, grown))
        model.config.pad_token_id = model.generation_config.pad_token_id = size
        model.save_pretrained(folder)
        del model
        _put_tokenizer(folder)
        _run_builder(folder, target, precision, cache)
    for path in target.glob("tokenizer*"):
        path.unlink()
    _check_special_ids(target / "genai_config.json", size, grown)
    return grown - size


def _put_tokenizer(folder: Path) -> None:
    """The builder asks for one. Only ids cross the contract, so any will do."""
    word = "0"
    words = Tokenizer(models.WordLevel({word: 0}, unk_token=word))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token=word).save_pretrained(folder)


def _run_builder(source: Path, target: Path, precision: str, cache: Path) -> None:
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", str(source), "-o", str(target), "-p", precision, "-e", "cpu", "-c", str(cache)]
    done = subprocess.run(
        command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["the model builder failed"])[-1])


def _check_special_ids(path: Path, size: int, grown: int) -> None:
    """The builder reads them from a file of the checkpoint; which one is its own business."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["model"] |= {"eos_token_id": list(range(size, grown)), "pad_token_id": size, "bos_token_id": size}
    path.write_text(json.dumps(settings, indent=4), encoding="utf-8")


def _stored_bytes(folder: Path) -> str:
    sizes: Counter[str] = Counter()
    for tensor in onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer:
        length = next(
            (int(entry.value) for entry in tensor.external_data if entry.key == "length"), len(tensor.raw_data)
        )
        sizes[onnx.TensorProto.DataType.Name(tensor.data_type).lower()] += length
    return ", ".join(f"{kind} {size}" for kind, size in sizes.most_common())


def _to_float32(source: Path, target: Path) -> None:
    target.mkdir()
    _build(source, target, "fp32")


def _scores(folder: Path, token_ids: list[int]) -> Any:
    adapter = OnnxRuntimeGenAiAdapter()
    adapter.load(folder, Variant("fp32", "ort-fp32"), Device("cpu"))
    scores = list(adapter.score(token_ids))
    adapter.close()
    return scores


# Both sides compute in float32.
_ENGINE = Engine(
    f"ONNX Runtime GenAI {onnxruntime_genai.__version__}", "onnxruntime-genai", _to_float32, _scores, tolerance_nat=1e-3
)
