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
    """A Llama-like decoder. Sizes as in a published ``config.json``; ``std`` is that of the random weights.

    ``extra`` holds further keys of ``config.json``.
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
    family: str = "Llama"
    std: float = 0.02
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.attention_heads

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name to shape of every stored tensor, in the order of the model, as transformers names them."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.attention_heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, hidden)}
        for index in range(self.layers):
            layer = f"model.layers.{index}."
            shapes[layer + "input_layernorm.weight"] = (hidden,)
            shapes[layer + "self_attn.q_proj.weight"] = (queries, hidden)
            shapes[layer + "self_attn.k_proj.weight"] = (keys, hidden)
            shapes[layer + "self_attn.v_proj.weight"] = (keys, hidden)
            shapes[layer + "self_attn.o_proj.weight"] = (hidden, queries)
            shapes[layer + "post_attention_layernorm.weight"] = (hidden,)
            shapes[layer + "mlp.gate_proj.weight"] = (inner, hidden)
            shapes[layer + "mlp.up_proj.weight"] = (inner, hidden)
            shapes[layer + "mlp.down_proj.weight"] = (hidden, inner)
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
            "architectures": [f"{self.family}ForCausalLM"],
            "model_type": self.family.lower(),
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
            **self.extra,
        }


# tiny and small: rows are multiples of 256, so that every group-wise quantisation fits them.
SHAPES: dict[str, Shape] = {
    "tiny": Shape(320, 256, 512, 2, 4, 2, 2048, "float32", std=0.06),
    "small": Shape(512, 512, 1024, 6, 8, 4, 2048, "float32", std=0.04),
    "smollm2-135m": Shape(49152, 576, 1536, 30, 9, 3, 8192, "bfloat16", 100000.0, tied_embeddings=True),
    "llama-3.2-1b": Shape(
        128256, 2048, 8192, 16, 32, 8, 131072, "bfloat16", 500000.0, tied_embeddings=True,
        extra={
            "rope_parameters": {
                "rope_theta": 500000.0,
                "rope_type": "llama3",
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
            }
        },
    ),
    "llama-2-7b": Shape(32000, 4096, 11008, 32, 32, 32, 4096, "float16"),
    # A quarter of its layers: the same kernels on the same matrices, for trying out engines and slow conversions.
    "llama-2-7b-8-layers": Shape(32000, 4096, 11008, 8, 32, 32, 4096, "float16"),
    "llama-2-13b": Shape(32000, 5120, 13824, 40, 40, 40, 4096, "float16"),
    "llama-3-8b": Shape(128256, 4096, 14336, 32, 32, 8, 8192, "bfloat16", 500000.0),
    "mistral-7b": Shape(
        32000, 4096, 14336, 32, 32, 8, 32768, "bfloat16", family="Mistral", extra={"sliding_window": 4096}
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
