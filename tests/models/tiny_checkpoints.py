"""Tiny checkpoints of many architectures, written by transformers, and what transformers itself holds of each.

Runs where torch and transformers are, such as in the image of that name; imports nothing of the suite:

    python tiny_checkpoints.py FOLDER [NAME ...]

Makes ``FOLDER/<name>/`` with ``config.json`` and ``model.safetensors``, and beside them in ``FOLDER/measured.json`` for
each name the bytes of its weights and of its cache, or the error that kept it from being run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROWS, PROMPT_TOKENS, NEW_TOKENS = 3, 40, 12
WINDOW = 32  # narrower than the prompt

_BASE = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip
_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_GPT = {"n_embd": 64, "n_layer": 4, "n_head": 8, "n_positions": 512}
_MLA = {
    "kv_lora_rank": 24, "q_lora_rank": None, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "num_key_value_heads": 8, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 48, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
_HYBRID = {"mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_n_heads": 8, "mamba_d_head": 16}


@dataclass(frozen=True)
class Tiny:
    """One checkpoint.

    Attributes:
        model_type: transformers' name of the architecture; ``settings`` go over the sizes that all share.
        stored: tensors to store beside the model's own: name to (shape, dtype), or to the name of one to copy.
    """

    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)
    stored: dict[str, Any] = field(default_factory=dict)


_TABLE = "model.embed_tokens.weight"
CHECKPOINTS: dict[str, Tiny] = {
    "llama-grouped": Tiny("llama"),
    "llama-one-head-tied": Tiny("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama-wide-heads": Tiny("llama", {"num_key_value_heads": 8, "head_dim": 24}),
    "llama-bias": Tiny("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear-rope": Tiny("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "llama-yarn": Tiny("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}),
    "llama-tied-own-head": Tiny(
        "llama", {"tie_word_embeddings": True}, stored={"lm_head.weight": ((320, 64), "float32")}
    ),
    "llama-tied-copied-head": Tiny("llama", {"tie_word_embeddings": True}, stored={"lm_head.weight": _TABLE}),
    "llama-stored-frequencies": Tiny(
        "llama",
        stored={f"model.layers.{i}.self_attn.rotary_emb.inv_freq": ((2048,), "float32") for i in range(4)},
    ),
    "mistral-window": Tiny("mistral", {"sliding_window": WINDOW}),
    "mistral-no-window": Tiny("mistral", {"sliding_window": None}),
    "mixtral": Tiny("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "mixtral-window": Tiny("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 1, "sliding_window": WINDOW}),
    "qwen2-late-windows": Tiny(
        "qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
    ),
    "qwen2-no-window": Tiny("qwen2", {"use_sliding_window": False, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen2-layer-types": Tiny(
        "qwen2",
        {
            "use_sliding_window": True, "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
        },
    ),
    "qwen3": Tiny("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen2-moe": Tiny("qwen2_moe", {**_EXPERTS, "shared_expert_intermediate_size": 64, "mlp_only_layers": [0]}),
    "qwen3-moe": Tiny("qwen3_moe", {**_EXPERTS, "head_dim": 16, "decoder_sparse_step": 1}),
    "gemma": Tiny("gemma", {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": Tiny("gemma2", {"head_dim": 16, "sliding_window": WINDOW, "tie_word_embeddings": True}),
    # Scores so capped that every probability changes; no windows, so that the cap is all that differs.
    "gemma2-capped": Tiny(
        "gemma2",
        {
            "head_dim": 16, "attn_logit_softcapping": 0.01, "query_pre_attn_scalar": 1,
            "layer_types": ["full_attention"] * 4, "tie_word_embeddings": True,
        },
    ),
    "gemma3": Tiny(
        "gemma3_text",
        {"head_dim": 16, "sliding_window": WINDOW, "num_hidden_layers": 7, "tie_word_embeddings": True},
    ),
    "cohere": Tiny("cohere", {"tie_word_embeddings": True}),
    "cohere2": Tiny("cohere2", {"sliding_window": WINDOW, "num_hidden_layers": 5, "tie_word_embeddings": True}),
    "olmo2": Tiny("olmo2"),
    "olmo3": Tiny("olmo3", {"sliding_window": WINDOW}),
    "olmoe": Tiny("olmoe", {"num_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 8}),
    "phi": Tiny("phi", {"num_key_value_heads": 8, "partial_rotary_factor": 0.5}),
    "phi3-window": Tiny("phi3", {"sliding_window": WINDOW}),
    "starcoder2-window": Tiny("starcoder2", {"sliding_window": WINDOW, "tie_word_embeddings": True}),
    "stablelm": Tiny("stablelm"),
    "granite": Tiny("granite", {"tie_word_embeddings": True}),
    "granite-moe": Tiny("granitemoe", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "nemotron": Tiny("nemotron", {"partial_rotary_factor": 0.5}),
    "smollm3": Tiny("smollm3", {"tie_word_embeddings": True}),
    "gpt2": Tiny("gpt2", {**_GPT, "tie_word_embeddings": True}),
    "gpt2-stored-masks": Tiny(
        "gpt2",
        {**_GPT, "tie_word_embeddings": True},
        stored={f"transformer.h.{i}.attn.bias": ((1, 1, 512, 512), "uint8") for i in range(4)}
        | {f"transformer.h.{i}.attn.masked_bias": ((), "float32") for i in range(4)},
    ),
    "gpt-bigcode": Tiny("gpt_bigcode", {**_GPT, "multi_query": True, "tie_word_embeddings": True}),
    "gpt-bigcode-all-heads": Tiny("gpt_bigcode", {**_GPT, "multi_query": False, "tie_word_embeddings": True}),
    "gpt-neox-stored-masks": Tiny(
        "gpt_neox",
        stored={f"gpt_neox.layers.{i}.attention.bias": ((1, 1, 512, 512), "bool") for i in range(4)}
        | {f"gpt_neox.layers.{i}.attention.masked_bias": ((), "float32") for i in range(4)},
    ),
    "codegen": Tiny("codegen", {**_GPT, "rotary_dim": 4}),
    "gptj": Tiny("gptj", {**_GPT, "rotary_dim": 4}),
    "opt": Tiny("opt", {"ffn_dim": 96, "word_embed_proj_dim": 64, "tie_word_embeddings": True}),
    "bloom": Tiny("bloom", {"n_layer": 4, "n_head": 8, "tie_word_embeddings": True}),
    "falcon-one-head": Tiny("falcon", {"multi_query": True, "new_decoder_architecture": False}),
    "falcon-all-heads": Tiny("falcon", {"multi_query": False, "new_decoder_architecture": False, "alibi": True}),
    "falcon-new": Tiny("falcon", {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "mpt": Tiny("mpt", {"d_model": 64, "n_heads": 8, "n_layers": 4, "max_seq_len": 512, "tie_word_embeddings": True}),
    "deepseek-v2": Tiny("deepseek_v2", {**_MLA, "topk_method": "greedy"}),
    "deepseek-v3": Tiny("deepseek_v3", _MLA),
    "gpt-oss": Tiny(
        "gpt_oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": WINDOW},
    ),
    "llama4": Tiny(
        "llama4_text",
        {
            "num_local_experts": 4, "num_experts_per_tok": 1, "head_dim": 8, "attention_chunk_size": 512,
            "intermediate_size_mlp": 128, "interleave_moe_layer_step": 2,
        },
    ),
    # Of these a figure would be wrong or is not known.
    "llama4-beyond-a-chunk": Tiny(
        "llama4_text",
        {
            "num_local_experts": 4, "num_experts_per_tok": 1, "head_dim": 8, "attention_chunk_size": WINDOW,
            "intermediate_size_mlp": 128,
        },
    ),
    "mamba": Tiny("mamba", {"state_size": 8}),
    "mamba2": Tiny("mamba2", {"num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 8}),
    "jamba": Tiny(
        "jamba", {"use_mamba_kernels": False, "num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1}
    ),
    "bamba": Tiny("bamba", {**_HYBRID, "attn_layer_indices": [1]}),
    "granite-hybrid": Tiny(
        "granitemoehybrid",
        {**_HYBRID, "layer_types": ["mamba", "attention"] * 2, "num_local_experts": 0, "shared_intermediate_size": 64},
    ),
    "falcon-h1": Tiny("falcon_h1", {**_HYBRID, "mamba_d_ssm": 128}),
    "recurrent-gemma": Tiny("recurrent_gemma", {"lru_width": 64, "attention_window_size": WINDOW}),
    "qwen3-next": Tiny(
        "qwen3_next",
        {
            **_EXPERTS, "head_dim": 16, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
            "linear_key_head_dim": 16, "linear_value_head_dim": 16, "shared_expert_intermediate_size": 64,
        },
    ),
    "lfm2": Tiny("lfm2", {"full_attn_idxs": [1, 3]}),
    "gpt-neo-local": Tiny(
        "gpt_neo",
        {
            "num_layers": 4, "num_heads": 8, "attention_types": [[["global", "local"], 2]], "window_size": WINDOW,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3n": Tiny(
        "gemma3n_text",
        {
            "head_dim": 16, "sliding_window": WINDOW, "num_kv_shared_layers": 2, "num_hidden_layers": 5,
            "laurel_rank": 8, "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 320,
            "layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
        },
    ),
    "qwen2-moe-windows": Tiny("qwen2_moe", {**_EXPERTS, "use_sliding_window": True, "sliding_window": WINDOW}),
}  # fmt: skip


# Layers that keep something else than keys and values, or windows and heads that engines read differently: made, so
# that the suite can be asked, and not measured.
UNKNOWN = {
    "mamba", "mamba2", "jamba", "bamba", "granite-hybrid", "falcon-h1", "recurrent-gemma", "qwen3-next", "lfm2",
    "gpt-neo-local", "gemma3n", "qwen2-moe-windows", "falcon-new",
}  # fmt: skip


def make(folder: Path, tiny: Tiny) -> None:
    """Writes a checkpoint with random weights."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    usual = AutoConfig.for_model(tiny.model_type)
    shared = {name: value for name, value in _BASE.items() if hasattr(usual, name)}
    config = AutoConfig.for_model(tiny.model_type, **{**shared, **tiny.settings})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for weight in model.parameters():  # some start as zeros, which would hide what is used
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(folder)
    if tiny.stored:
        tensors = load_file(folder / "model.safetensors")
        for name, what in tiny.stored.items():
            if isinstance(what, str):
                tensors[name] = tensors[what].clone()
            else:
                shape, dtype = what
                tensors[name] = torch.ones(shape, dtype=getattr(torch, dtype))
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def measure(folder: Path) -> dict[str, Any]:
    """What transformers holds of a checkpoint, and what one more token needs of it.

    ``weights_bytes``: all parameters. ``step_weights_bytes``: those that one token uses, by their gradients: of tables
    that are looked up only, rows; of experts, the chosen ones. ``cache_bytes``: storage of keys and values after a
    batch that is padded on the left. ``step_cache_bytes``: keys and values that its last step was given.
    ``positions``: of a row then.
    """
    import torch
    from transformers import AutoModelForCausalLM, Cache, GenerationConfig

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model.generation_config = GenerationConfig()
    given: dict[int, int] = {}
    update: Callable[..., Any] = Cache.update

    def watched(cache: Any, keys: Any, values: Any, layer: int, *rest: Any, **more: Any) -> Any:
        both = update(cache, keys, values, layer, *rest, **more)
        given[layer] = sum(tensor.numel() * tensor.element_size() for tensor in both[:2])
        return both

    ids = torch.randint(3, 300, (ROWS, PROMPT_TOKENS))
    mask = torch.ones_like(ids)
    for row in range(1, ROWS):
        ids[row, : 5 * row], mask[row, : 5 * row] = 0, 0
    Cache.update = watched
    try:
        done = model.generate(
            input_ids=ids, attention_mask=mask, return_dict_in_generate=True,
            generation_config=GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0),
        )  # fmt: skip
    finally:
        Cache.update = update
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for layer in done.past_key_values.layers
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if tensor is not None
    }
    return {
        "weights_bytes": sum(weight.nbytes for weight in model.parameters()),
        "step_weights_bytes": _used_by_one_token(model),
        "cache_bytes": sum(storages.values()),
        "step_cache_bytes": sum(given.values()),
        "positions": PROMPT_TOKENS + NEW_TOKENS - 1,
    }


def _used_by_one_token(model: Any) -> int:
    import torch

    model(input_ids=torch.tensor([[7]]), use_cache=False).logits.square().sum().backward()
    heads = {id(model.get_output_embeddings().weight)}
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)} - heads
    total = 0
    for name, weight in model.named_parameters():
        used = weight.grad is not None and bool(weight.grad.any())
        if id(weight) in looked_up:
            total += weight.nbytes // weight.shape[0]
        elif ".experts." in name:
            parts = weight.grad.flatten(1).any(1).sum().item() / weight.shape[0] if weight.dim() == 3 and used else used
            total += int(weight.nbytes * parts)
        else:
            total += weight.nbytes
    return total


def main() -> None:
    """Makes and measures all that are named, or all."""
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)  # matrices this small only wait for a second one
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    home = Path(sys.argv[1])
    measured: dict[str, Any] = {}
    for name in sys.argv[2:] or CHECKPOINTS:
        try:
            make(home / name, CHECKPOINTS[name])
            measured[name] = {} if name in UNKNOWN else measure(home / name)
        except Exception as error:  # noqa: BLE001  # the test says which may fail
            measured[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
        (home / "measured.json").write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
