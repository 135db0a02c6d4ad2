"""What must be asked of a Hugging Face folder before Transformers reads it. Needs Transformers 5.

``python -m images._torch.pretrained FOLDER`` fails where the folder lacks a weight, for servers that would not say so.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

from bench_core.contract.loading import require_all_weights


def attention_of(artifact: Path) -> str:
    """PyTorch's scaled-dot-product attention, unless the model's class has none or caps its scores (Gemma 2): under
    that attention transformers 5.17 leaves the cap out without a word (5.24 refuses)."""
    return attention_for(AutoConfig.from_pretrained(artifact, local_files_only=True, trust_remote_code=False))


def attention_for(config: Any) -> str:
    """The same of a configuration that has been read."""
    capped = getattr(config.get_text_config(decoder=True), "attn_logit_softcapping", None) is not None
    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return "eager" if capped or not getattr(known, "_supports_sdpa", True) else "sdpa"


def require_complete(artifact: Path) -> None:
    """For a model that is quantised while it is read: what is not found is filled with random numbers, and quantised
    layers take any shape. No tensor is read.

    Raises:
        MissingWeights: as :func:`read_whole`.
    """
    read_whole(artifact, device_map="meta")


def read_whole(artifact: Path, **how: Any) -> Any:
    """A model from safetensors of a local folder; no hub, no remote code.

    Args:
        how: further arguments of ``from_pretrained``.

    Raises:
        MissingWeights: a weight is missing, or not of the shape that config.json says. What is not found is filled
            with random numbers, and a weight of another shape would be an error without its name.
    """
    model, said = AutoModelForCausalLM.from_pretrained(
        artifact,
        **how,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    require_all_weights(said)
    return model


if __name__ == "__main__":
    require_complete(Path(sys.argv[1]))
