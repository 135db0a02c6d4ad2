"""What a checkpoint's tensors are, from their names in the model families that the suite knows."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Tables of input embeddings.
TOKEN_TABLES = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
)
# Tables of learned positions: a token takes a row of them, too.
POSITION_TABLES = ("wpe.weight", "embed_positions.weight")
# Output layers.
HEADS = ("lm_head.weight", "embed_out.weight")
# What old releases of transformers stored beside the weights: causal masks, their fill value, frequencies of rotations.
_BUFFERS = re.compile(r"(^|\.)(masked_bias|inv_freq|rotary_emb\.(cos|sin)_cached)$")
_MASK = re.compile(r"(^|\.)(attn|attention|self_attn)\.bias$")
# Of routed experts. Shared ones are called shared_expert or shared_experts, routers gate, router or wg.
_EXPERTS = re.compile(r"\.experts\.|\.block_sparse_moe\.(input|output)_linear\.|_exps\.")


def is_buffer(name: str, shape: Sequence[int]) -> bool:
    """Whether a stored tensor is no weight: engines make it anew. A mask of 1 x 1 x positions x positions is told from
    a bias of the same name by its shape."""
    return bool(_BUFFERS.search(name)) or (len(shape) == 4 and bool(_MASK.search(name)))


def is_expert(name: str) -> bool:
    """Whether a tensor belongs to routed experts."""
    return bool(_EXPERTS.search(name))
