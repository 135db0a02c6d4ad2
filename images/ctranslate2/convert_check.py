"""Whether CTranslate2 computes what a checkpoint's configuration asks for.

Its converters read some fields of a configuration and pass over others without a word (findings/
ctranslate2_fields_without_effect.sh): the rope type of Llama 3.1, the soft caps of Gemma 2, the epsilon of a GPT-2. The
engine would then be timed on another model than its neighbours. No list of such fields stays true, so a small model of
the same configuration with random weights is converted first, and its log-probabilities are compared with those of
Transformers.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy
import torch
import transformers

from bench_core.contract.errors import BadInput

# Both sides compute in float32: what they agree on differs by 1e-5, what they do not by more than 0.01.
TOLERANCE_NAT = 1e-3
_VOCABULARY = 128
_TOKENS = 48
_LAYERS = 6
_FEED_FORWARD = 96
# Of a size, of a place, or of how the model is stored: what these say is no part of the function.
_NOT_OF_THE_FUNCTION = frozenset(
    [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "layer_types",
        "max_position_embeddings",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "dtype",
        "architectures",
        "model_type",
        "transformers_version",
        "tie_word_embeddings",
        "use_cache",
        "initializer_range",
    ]
)
Convert = Callable[[Path, Path], None]


def require_same_function(config: Any, convert: Convert) -> str:
    """Compares a small model of this configuration in both engines. ``convert`` makes the second folder from the first.

    Returns:
        What was seen, for the artifact's record.

    Raises:
        BadInput: the converted model computes another function; with the fields that have no effect, where one alone
            explains the difference.
    """
    small = small_config(config)
    ids = torch.randint(3, _VOCABULARY, (1, _TOKENS), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "source", Path(scratch) / "target"
        asked = _random_model(small)
        asked.save_pretrained(source)
        convert(source, target)
        generator = ctranslate2.Generator(str(target), device="cpu", compute_type="float32")
        names = [f"<id_{token_id}>" for token_id in ids[0].tolist()]
        scores = numpy.array(generator.forward_batch([names], return_log_probs=True))[0][:, :_VOCABULARY]
        del generator
    difference = _largest_difference(scores, asked, ids)
    if difference > TOLERANCE_NAT:
        lost = _without_effect(small, scores, ids)
        fields = f"; without effect: {', '.join(lost)}" if lost else ""
        raise BadInput(
            f"CTranslate2 {ctranslate2.__version__} does not compute what this model's config.json asks for: the "
            f"log-probabilities of a small model of the same configuration are off by up to {difference:.2g}{fields}",
            "leave ctranslate2 out for this model",
        )
    return f"a small model of this configuration agrees with Transformers within {difference:.1g}"


def small_config(config: Any) -> Any:
    """A copy of a configuration with few, narrow layers: as many query heads for each key-value head, the same head
    size, every kind of layer that it has."""
    small = copy.deepcopy(config)
    heads, kv_heads = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    few_kv = min(kv_heads or heads, 2)
    few = few_kv * max(1, min(heads // (kv_heads or heads), 4))
    layers = config.num_hidden_layers
    kept = _kept_layers(getattr(config, "layer_types", None) or ["any"] * layers)
    changes: dict[str, Any] = {
        name: [value[layer] for layer in kept]
        for name, value in vars(config).items()
        if isinstance(value, list) and len(value) == layers
    }
    changes |= {
        "vocab_size": _VOCABULARY, "num_hidden_layers": len(kept), "num_attention_heads": few,
        "hidden_size": few * head_size, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, "dtype": "float32",
    }  # fmt: skip
    for name in ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"):
        if getattr(config, name, None) is not None:
            changes[name] = _FEED_FORWARD
    if kv_heads is not None:
        changes["num_key_value_heads"] = few_kv
    for name, value in changes.items():
        setattr(small, name, value)
    return small


def _kept_layers(kinds: Sequence[str]) -> list[int]:
    """The first layers, and the first of every kind that these do not have."""
    first = list(range(min(len(kinds), _LAYERS)))
    return sorted({*first, *(kinds.index(kind) for kind in set(kinds))})


def _random_model(config: Any) -> Any:
    """The same weights for every value of a field that changes no shape."""
    # SDPA, the default, leaves out a soft cap of the scores (transformers 5.17.0).
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention
    ).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1 or "bias" in name:
                # Wide layers would saturate at one width of the numbers, and rounding would look like a difference.
                weights.normal_(0, 1.2 / weights.shape[-1] ** 0.5, generator=random)
    model.tie_weights()
    return model


def _largest_difference(scores: Any, model: Any, ids: Any) -> float:
    with torch.inference_mode():
        expected = torch.log_softmax(model(ids).logits[0].float(), -1).numpy()
    return float(numpy.abs(scores - expected).max())


def _without_effect(config: Any, scores: Any, ids: Any) -> list[str]:
    """Fields that alone explain the difference: at their default, the model is the one that was computed."""
    default = type(config)()
    found = []
    for name in sorted(config.to_diff_dict().keys() - _NOT_OF_THE_FUNCTION):
        for value in _neutral_values(getattr(config, name, None), getattr(default, name, None)):
            other = copy.deepcopy(config)
            setattr(other, name, value)
            try:
                model = _random_model(other)
            except (ValueError, TypeError, KeyError, AttributeError, RuntimeError):
                continue  # a default that does not go with the other fields explains nothing
            if _largest_difference(scores, model, ids) <= TOLERANCE_NAT:
                found.append(name)
                break
    return found


def _neutral_values(value: Any, default: Any) -> list[Any]:
    """What a field may be computed as that is not read; of a rope, also the same one without its scaling."""
    values = [copy.deepcopy(default)]
    if isinstance(value, dict) and "rope_theta" in value:
        values.append({"rope_type": "default", "rope_theta": value["rope_theta"]})
    return values
