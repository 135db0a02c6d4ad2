"""GGUF files from a Hugging Face folder: llama.cpp's own converter, then llama.cpp's own quantiser."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import torch
import transformers
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
from engine_log import LOG

from bench_core.contract.adapter import Conversion
from bench_core.contract.errors import BadInput
from images._torch.same_function import Engine, require_same_function

_FLOATS = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
}
_QUANTISED = {
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q6_k": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
    "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "iq4_xs": llama_cpp.LLAMA_FTYPE_MOSTLY_IQ4_XS,
    "q2_k": llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K,
}


def to_gguf(conversion: Conversion) -> Mapping[str, str]:
    """Writes ``model.gguf`` of the type that the artifact's name ends with; memory stays at a few tensors.

    Facts: how many tensors of each type the file really has. Rows that do not fill a block of a k-quant (256 values)
    fall back to a type with smaller blocks, or to f16; that shows there.

    Raises:
        BadInput: an architecture that llama.cpp's converter does not know, or llama.cpp computes another function than
            the model's configuration asks for.
        RuntimeError: llama.cpp refused to quantise; with its reason.
    """
    kind = conversion.artifact.removeprefix("gguf-")
    target = conversion.target / "model.gguf"
    config = transformers.AutoConfig.from_pretrained(conversion.source, local_files_only=True)
    function = require_same_function(config, _ENGINE)
    if kind in _FLOATS:
        _write_float(conversion.source, target, kind)
        return {"tensor_types": _tensor_types(target), "function": function}
    stored = _stored_type(conversion.source)
    whole = conversion.target / f"{stored}.gguf"
    _write_float(conversion.source, whole, stored)
    _quantise(whole, target, _QUANTISED[kind], conversion.device.threads)
    whole.unlink()
    return {"tensor_types": _tensor_types(target), "quantised_from": stored, "function": function}


def _to_float32(source: Path, target: Path) -> None:
    target.mkdir()
    _write_float(source, target / "model.gguf", "f32")


def _scores(folder: Path, token_ids: list[int]) -> list[float]:
    """
    Raises:
        RuntimeError: llama.cpp cannot run the model.
    """
    here = Path(__file__).parent
    command = [sys.executable, str(here / "score_once.py"), str(folder)]
    done = subprocess.run(command, input=json.dumps(token_ids), capture_output=True, text=True, check=False, cwd=here)
    if done.returncode:
        raise RuntimeError(f"llama.cpp ended with code {done.returncode}")
    scores: list[float] = json.loads(done.stdout.splitlines()[-1])
    return scores


# Rounding makes 0.01 (GELU from a table, a yarn of its own), what is not computed made 0.4 and more.
_ENGINE = Engine(
    f"llama.cpp (llama-cpp-python {llama_cpp.__version__})",
    "llama-cpp-python",
    _to_float32,
    _scores,
    tolerance_nat=0.1,
)


def _write_float(source: Path, target: Path, kind: str) -> None:
    hparams = ModelBase.load_hparams(source, False)
    architecture = get_model_architecture(hparams, ModelType.TEXT)
    try:
        model_class = get_model_class(architecture)
    except NotImplementedError as error:
        raise BadInput(f"llama.cpp's converter does not know the architecture {architecture}") from error
    with torch.inference_mode():
        model = model_class(source, _FLOATS[kind], target, model_name="model")
        model.set_vocab = lambda: _numbers_for_words(model)
        model.write()


def _numbers_for_words(model: Any) -> None:
    """Only token ids cross the suite, so any tokenizer will do; the word of token 7 is " 7".

    llama.cpp's server ends its process where a token has no word, and forbids the end of a sequence where it is told to
    go past it. RWKV's kind of vocabulary needs nothing but words and names no such end: nothing is forbidden.
    """
    writer, size = model.gguf_writer, model.find_hparam(["vocab_size"])
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list([f" {number}" for number in range(size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * size)
    size_key = gguf.Keys.LLM.VOCAB_SIZE.format(arch=writer.arch)
    if size_key not in writer.kv_data[0]:
        writer.add_vocab_size(size)


def _stored_type(source: Path) -> str:
    """The type that holds the checkpoint's weights without loss: of its widest tensor."""
    dtypes: set[str] = set()
    for path in source.glob("*.safetensors"):
        with path.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        dtypes |= {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    if dtypes == {"BF16"}:
        return "bf16"
    return "f16" if dtypes == {"F16"} else "f32"


def _quantise(source: Path, target: Path, file_type: int, threads: int) -> None:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = threads
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise RuntimeError(f"llama.cpp did not quantise the model: {LOG.errors()}")


def _tensor_types(path: Path) -> str:
    counts = Counter(tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors)
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
