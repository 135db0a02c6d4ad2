"""ExLlama (the first): ``forward`` on a rectangle of prompts, then one token of every row a step."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from safetensors import safe_open
from torch.utils import cpp_extension

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.errors import BadInput
from bench_core.contract.rectangle import Rectangle
from images._torch.adapter import TorchAdapter, log_probabilities, without_cudnn_attention
from images._torch.steps import greedy_rows
from images._torch.unsupported import Unsupported

_compile_extension = cpp_extension.load


def _extension(name: str, *arguments: Any, **options: Any) -> ModuleType:
    """The engine's extension: the one compiled when the image was built, else compiled now.

    The engine imports it by its name afterwards, and what ``cpp_extension.load`` returns stands under no name.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module: ModuleType = _compile_extension(name, *arguments, **options)
        sys.modules[name] = module
        return module


with mock.patch.object(cpp_extension, "load", _extension):
    from exllama import cuda_ext
    from exllama.model import ExLlama, ExLlamaCache, ExLlamaConfig

_GPU = "cuda:0"
_WEIGHTS = "model.safetensors"
_EMBEDDINGS = "model.embed_tokens.weight"
_make_q4 = cuda_ext.ext_make_q4


class ExLlamaAdapter(TorchAdapter):
    """Options: ``embeddings``, ``cuda`` or ``cpu`` (the engine's default): where the table of embeddings lies."""

    def __init__(self) -> None:
        self._model: Any = None
        self._cache: Any = None
        self._reordered = 0
        self._embeddings = ""

    @property
    def engine(self) -> Any:
        """The loaded model and the prepared cache."""
        return self._model, self._cache

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:  # noqa: ARG002  # cuda is all it knows
        """Reads the one file of a 4-bit GPTQ folder onto the GPU."""
        self._embeddings = str(variant.options["embeddings"])
        settings = _checked(artifact)
        without_cudnn_attention()
        config = ExLlamaConfig(str(artifact / "config.json"))
        config.model_path = str(artifact / _WEIGHTS)
        config.max_seq_len = int(settings["max_position_embeddings"])  # rows of the table of rotations
        config.rotary_embedding_base = _rope_theta(settings)
        # With pairs of halves the engine launches no block at all for heads of less than 128 dimensions.
        config.rope_no_half2 = config.head_dim % 128 != 0
        if self._embeddings == "cuda":
            config.device_map.embed_tokens = _GPU
        self._reordered = 0
        with mock.patch.object(cuda_ext, "ext_make_q4", self._make_matrix), torch.inference_mode():
            self._model = ExLlama(config)
            self._restore_pad_row(artifact, config.pad_token_id)

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:
        """Makes a cache of the cell's shape and lets every prompt through in one piece."""
        self._free()
        self._shape(batch_size, max_prompt_tokens, max_prompt_tokens + max_new_tokens)

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """Prompts are padded on the left, and padding is masked: attention sees distances alone, so a row's result
        does not depend on where it starts."""
        rectangle = Rectangle.of(prompts, decoding.pad_token_id)
        gaps, width = rectangle.gaps, rectangle.width
        mask = None
        if any(gaps):
            columns = torch.arange(width + decoding.max_new_tokens, device=_GPU)
            mask = columns >= torch.tensor(gaps, device=_GPU).unsqueeze(1)
        given = torch.tensor(rectangle.ids, device=_GPU)

        def next_tokens() -> list[int]:
            nonlocal given
            logits = self._model.forward(given, self._cache, last_id_only=True, input_mask=mask)
            given = logits[:, -1].argmax(dim=-1, keepdim=True)
            tokens: list[int] = given.flatten().tolist()  # waits for the device
            return tokens

        with torch.inference_mode():
            self._cache.current_seq_len = 0
            return greedy_rows(next_tokens, len(prompts), decoding, on_tokens)

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first, softmax in float32."""
        config, kept = self._model.config, self._cache
        shape = config.max_seq_len, config.max_input_len, config.max_attention_size
        try:
            self._shape(1, len(token_ids), len(token_ids))
            with torch.inference_mode():
                ids = torch.tensor([list(token_ids)], device=_GPU)
                return log_probabilities(self._model.forward(ids, self._cache, last_id_only=False)[0], token_ids)
        finally:
            self._cache = kept
            config.max_seq_len, config.max_input_len, config.max_attention_size = shape

    def describe(self) -> Mapping[str, str]:
        """How weights are laid out and which paths of the engine are open."""
        config = self._model.config
        return {
            "group_size": str(config.groupsize),
            "dtype": "float16",  # its kernels know no other
            "layers_reordered": str(self._reordered),
            "embeddings": self._embeddings,
            **({"kv_positions": str(self._cache.batch_size * self._cache.max_seq_len)} if self._cache else {}),
            "attention": "sdpa for prompts, matmul for single tokens",
            "fused_attention": "batch size 1" if config.fused_attn else "off",
            "fused_mlp_rows": str(config.fused_mlp_thd),
            "dequantise_from_rows": str(config.matmul_recons_thd),
        }

    def close(self) -> None:
        """Frees the cache, what the extension allocated itself, and the model."""
        if self._model is not None:
            self._model.free_unmanaged()
        self._model = None
        self._free()

    def _free(self) -> None:
        self._cache = None
        super()._free()

    def _shape(self, batch_size: int, max_prompt_tokens: int, max_tokens: int) -> None:
        config = self._model.config
        config.max_seq_len = max_tokens  # the cache's stride, which the fused kernels take from here
        if not self._reordered:
            # Only reordered inputs need the engine's buffer of max_input_len rows; all others may pass in one piece.
            config.max_input_len = batch_size * max_prompt_tokens
            config.max_attention_size = max(config.max_attention_size, max_prompt_tokens**2)
        self._cache = ExLlamaCache(self._model, batch_size=batch_size, max_seq_len=max_tokens)

    def _make_matrix(self, qweight: Any, qzeros: Any, scales: Any, g_idx: Any, device: Any) -> Any:
        """The engine's own, without a group index that says nothing: files without act-order have one too, and the
        engine would copy every input into the order that it has already."""
        if g_idx is not None:
            inputs = qweight.shape[0] * 8
            if inputs % qzeros.shape[0] or g_idx.numel() != inputs:
                raise Unsupported(f"{inputs} inputs do not make {qzeros.shape[0]} whole groups")
            in_order = torch.arange(inputs, dtype=g_idx.dtype) // (inputs // qzeros.shape[0])
            if torch.equal(g_idx, in_order):
                g_idx = None
            else:
                self._reordered += 1
        return _make_q4(qweight, qzeros, scales, g_idx, device)

    def _restore_pad_row(self, artifact: Path, pad_token_id: int) -> None:
        """The engine zeroes the padding token's embedding, which is a token like others in prompts and outputs."""
        with safe_open(artifact / _WEIGHTS, framework="pt") as weights:
            row = weights.get_slice(_EMBEDDINGS)[pad_token_id : pad_token_id + 1]
        self._model.embed_tokens.weight.data[pad_token_id] = row[0].half()


def _checked(artifact: Path) -> dict[str, Any]:
    """The settings of a folder that the engine reads right.

    Raises:
        BadInput: not GPTQ's first format, or not in one file.
        Unsupported: a kind of Llama that the engine does not know.
    """
    settings: dict[str, Any] = json.loads((artifact / "config.json").read_text(encoding="utf-8"))
    if (
        settings["quantization_config"].get("checkpoint_format", "gptq") != "gptq"
        or not (artifact / _WEIGHTS).is_file()
    ):
        raise BadInput(f"{artifact.name} is not GPTQ's first format in one {_WEIGHTS}", "quantise it again")
    if settings.get("architectures") != ["LlamaForCausalLM"]:
        raise Unsupported(f"ExLlama reads LlamaForCausalLM, this is {settings.get('architectures')}")
    if settings.get("attention_bias") or settings.get("mlp_bias"):
        raise Unsupported("ExLlama leaves out the biases of linear layers")
    heads, hidden = settings["num_attention_heads"], settings["hidden_size"]
    if settings.get("head_dim", hidden // heads) * heads != hidden:
        raise Unsupported("ExLlama takes the width of a head to be hidden_size / num_attention_heads")
    rope = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise Unsupported(f"ExLlama does not scale rotations by {kind!r}")
    return settings


def _rope_theta(settings: Mapping[str, Any]) -> float:
    parameters = settings.get("rope_parameters") or {}
    return float(settings.get("rope_theta") or parameters.get("rope_theta") or 10000.0)
