"""What must be asked of a Hugging Face folder before Transformers reads it. Needs Transformers 5."""

from __future__ import annotations

from pathlib import Path

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

from bench_core.contract.loading import require_all_weights


def attention_of(artifact: Path) -> str:
    """PyTorch's scaled-dot-product attention, unless the model's class has none or caps its scores (Gemma 2): under
    that attention transformers 5.17 leaves the cap out without a word (5.24 refuses)."""
    config = AutoConfig.from_pretrained(artifact, local_files_only=True, trust_remote_code=False)
    capped = getattr(config.get_text_config(decoder=True), "attn_logit_softcapping", None) is not None
    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return "eager" if capped or not getattr(known, "_supports_sdpa", True) else "sdpa"


def require_complete(artifact: Path) -> None:
    """For a model that is quantised while it is read: what is not found is filled with random numbers, and quantised
    layers take any shape. No tensor is read.

    Raises:
        MissingWeights: a weight is missing, or not of the shape that config.json says.
    """
    _, said = AutoModelForCausalLM.from_pretrained(
        artifact,
        device_map="meta",
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    require_all_weights(said)
