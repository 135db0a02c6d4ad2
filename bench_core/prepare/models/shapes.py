"""Shapes of synthetic models: two small ones of this project, and published ones with their true sizes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench_core.contract.errors import BadInput
from bench_core.prepare.prompts.tokenizer import BOS_ID, EOS_ID, PAD_ID

PREFIX = "synthetic/"
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Shape:
    """A decoder of one of the families below. Sizes as in a published ``config.json``; ``std`` is that of the random
    weights.

    Attributes:
        family: ``model_type`` of ``config.json``; a key of ``_ARCHITECTURES``.
        head_size: width of one attention head; the hidden size over the heads where it is ``None``.
        experts: of each layer; the layers are dense where there are none.
        expert_size: inner width of one expert.
        extra: further keys of ``config.json``.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    attention_heads: int
    kv_heads: int
    context_length: int
    dtype: str
    rope_theta: float = 10000.0
    tied_embeddings: bool = False
    family: str = "llama"
    head_size: int | None = None
    experts: int = 0
    expert_size: int = 0
    std: float = 0.02
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.head_size or self.hidden_size // self.attention_heads

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name to shape of every stored tensor, in the order of the model, as transformers names them."""
        hidden = self.hidden_size
        queries, keys = self.attention_heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, hidden)}
        for index in range(self.layers):
            layer = f"model.layers.{index}."
            shapes[layer + "input_layernorm.weight"] = (hidden,)
            shapes[layer + "self_attn.q_proj.weight"] = (queries, hidden)
            shapes[layer + "self_attn.k_proj.weight"] = (keys, hidden)
            shapes[layer + "self_attn.v_proj.weight"] = (keys, hidden)
            shapes[layer + "self_attn.o_proj.weight"] = (hidden, queries)
            if self.family in _NORMED_HEADS:
                shapes[layer + "self_attn.q_norm.weight"] = (self.head_dim,)
                shapes[layer + "self_attn.k_norm.weight"] = (self.head_dim,)
            shapes[layer + "post_attention_layernorm.weight"] = (hidden,)
            if self.family in _NORMED_BOTH_SIDES:
                shapes[layer + "pre_feedforward_layernorm.weight"] = (hidden,)
                shapes[layer + "post_feedforward_layernorm.weight"] = (hidden,)
            if self.experts:
                shapes[layer + "mlp.gate.weight"] = (self.experts, hidden)
            inner = self.expert_size if self.experts else self.intermediate_size
            for place in [f"experts.{number}." for number in range(self.experts)] or [""]:
                shapes[f"{layer}mlp.{place}gate_proj.weight"] = (inner, hidden)
                shapes[f"{layer}mlp.{place}up_proj.weight"] = (inner, hidden)
                shapes[f"{layer}mlp.{place}down_proj.weight"] = (hidden, inner)
        shapes["model.norm.weight"] = (hidden,)
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, hidden)
        return shapes

    @property
    def parameters(self) -> int:
        """Number of stored weights."""
        count = 0
        for shape in self.tensors().values():
            count += shape[0] if len(shape) == 1 else shape[0] * shape[1]
        return count

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return self.parameters * DTYPE_BYTES[self.dtype]

    def config(self) -> dict[str, Any]:
        """``config.json`` as transformers 4 and 5 both read it."""
        return {
            "architectures": [_ARCHITECTURES[self.family]],
            "model_type": self.family,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": BOS_ID,
            "dtype": self.dtype,
            "eos_token_id": EOS_ID,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.context_length,
            "mlp_bias": False,
            "num_attention_heads": self.attention_heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": PAD_ID,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_theta": self.rope_theta, "rope_type": "default"},
            "tie_word_embeddings": self.tied_embeddings,
            "use_cache": True,
            "vocab_size": self.vocab_size,
            **({"num_experts": self.experts, "moe_intermediate_size": self.expert_size} if self.experts else {}),
            **self.extra,
        }


_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
_NORMED_HEADS = ("qwen3", "qwen3_moe", "gemma3_text")  # queries and keys of each head
_NORMED_BOTH_SIDES = ("gemma3_text",)  # before and after attention and MLP

_QWEN3 = {"rms_norm_eps": 1e-6}
_QWEN3_MOE = {
    **_QWEN3,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}


def _llama3(factor: float) -> dict[str, Any]:
    """Rotations stretched from the 8192 positions that Llama 3 was first trained for."""
    return {
        "rope_parameters": {
            "rope_theta": 500000.0,
            "rope_type": "llama3",
            "factor": factor,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
        }
    }


def _gemma3(layers: int, window: int, head_size: int) -> dict[str, Any]:
    """Five layers that see a window, then one that sees all; each kind has its own frequencies of rotation."""
    kinds = ["full_attention" if (index + 1) % 6 == 0 else "sliding_attention" for index in range(layers)]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": kinds,
        "query_pre_attn_scalar": head_size,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "sliding_window": window,
    }


# tiny and small: rows are multiples of 256, so that every group-wise quantisation fits them.
SHAPES: dict[str, Shape] = {
    "tiny": Shape(320, 256, 512, 2, 4, 2, 2048, "float32", std=0.06),
    "small": Shape(512, 512, 1024, 6, 8, 4, 2048, "float32", std=0.04),
    "smollm2-135m": Shape(49152, 576, 1536, 30, 9, 3, 8192, "bfloat16", 100000.0, tied_embeddings=True),
    "llama-3.2-1b": Shape(
        128256, 2048, 8192, 16, 32, 8, 131072, "bfloat16", 500000.0, tied_embeddings=True,
        extra=_llama3(32.0),
    ),
    "llama-2-7b": Shape(32000, 4096, 11008, 32, 32, 32, 4096, "float16"),
    # A quarter of its layers: the same kernels on the same matrices, for trying out engines and slow conversions.
    "llama-2-7b-8-layers": Shape(32000, 4096, 11008, 8, 32, 32, 4096, "float16"),
    "llama-2-13b": Shape(32000, 5120, 13824, 40, 40, 40, 4096, "float16"),
    "llama-3-8b": Shape(128256, 4096, 14336, 32, 32, 8, 8192, "bfloat16", 500000.0),
    "llama-3.1-8b": Shape(128256, 4096, 14336, 32, 32, 8, 131072, "bfloat16", 500000.0, extra=_llama3(8.0)),
    "mistral-7b": Shape(
        32000, 4096, 14336, 32, 32, 8, 32768, "bfloat16", family="mistral", extra={"sliding_window": 4096}
    ),
    "qwen3-8b": Shape(
        151936, 4096, 12288, 36, 32, 8, 40960, "bfloat16", 1e6, family="qwen3", head_size=128, extra=_QWEN3
    ),
    "qwen3-30b-a3b": Shape(
        151936, 2048, 6144, 48, 32, 4, 40960, "bfloat16", 1e6, family="qwen3_moe", head_size=128,
        experts=128, expert_size=768, extra=_QWEN3_MOE,
    ),
    # The text model alone, as its own class reads it.
    "gemma-3-4b": Shape(
        262208, 2560, 10240, 34, 8, 4, 131072, "bfloat16", 1e6, tied_embeddings=True, family="gemma3_text",
        head_size=256, extra=_gemma3(34, 1024, 256),
    ),
    # The families small, for trying out what an engine takes.
    "tiny-mistral": Shape(
        320, 256, 512, 2, 4, 2, 2048, "float32", std=0.06, family="mistral", extra={"sliding_window": 64}
    ),
    "tiny-qwen3": Shape(
        320, 256, 512, 2, 4, 2, 2048, "float32", 1e6, std=0.06, family="qwen3", head_size=128, extra=_QWEN3
    ),
    "tiny-qwen3-moe": Shape(
        320, 256, 512, 2, 4, 2, 2048, "float32", 1e6, std=0.06, family="qwen3_moe", head_size=128,
        experts=16, expert_size=256, extra=_QWEN3_MOE,
    ),
    "tiny-gemma3": Shape(
        320, 256, 512, 6, 4, 2, 2048, "float32", 1e6, tied_embeddings=True, std=0.06, family="gemma3_text",
        head_size=128, extra=_gemma3(6, 64, 128),
    ),
}  # fmt: skip


def is_synthetic(name: str) -> bool:
    """Whether a model's name asks for a synthetic one."""
    return name == PREFIX.rstrip("/") or name.startswith(PREFIX)


def shape_of(name: str) -> Shape:
    """The shape that ``synthetic/<shape>`` names.

    Raises:
        BadInput: unknown; names the known ones and the nearest.
    """
    wanted = name.removeprefix(PREFIX)
    if wanted in SHAPES:
        return SHAPES[wanted]
    nearest = difflib.get_close_matches(wanted.lower(), SHAPES, n=1, cutoff=0.4)
    meant = f"did you mean {PREFIX}{nearest[0]}? " if nearest else ""
    raise BadInput(f"no synthetic shape {wanted[:80]!r}", f"{meant}shapes: {', '.join(SHAPES)}")
