"""Whether an engine that reads its own format computes what a checkpoint's configuration asks for.

Converters read some fields of a configuration and pass over others without a word: CTranslate2's the rope type of
Llama 3.1 and the soft caps of Gemma 2 (findings/ctranslate2_fields_without_effect.sh), llama.cpp's the rotary base of
Falcon, Phi and Gemma (findings/gguf_conversion_loses_rope_base.sh). The engine would then be timed on another model
than its neighbours. No list of such fields stays true, so a small model of the same configuration with random weights
is converted first, and its log-probabilities are compared with those of Transformers.

For stages that convert, which have Transformers; adapters do not import this.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from bench_core.contract.errors import BadInput, first_line
from images._torch.pretrained import attention_for

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


@dataclass(frozen=True)
class Engine:
    """An engine's side of the comparison, in 32 bits.

    Attributes:
        name: with its version, for people.
        image: what to leave out where it computes something else.
        convert: makes the second folder from the first, a checkpoint.
        score: of a converted folder and token ids: log-probabilities of every token at every position, shape (tokens,
            vocabulary), or of each token but the first, shape (tokens - 1,).
        tolerance_nat: what rounding may make of one; what is not computed makes more than 0.01 of it.
    """

    name: str
    image: str
    convert: Callable[[Path, Path], None]
    score: Callable[[Path, list[int]], Any]
    tolerance_nat: float


def require_same_function(config: Any, engine: Engine) -> str:
    """Compares a small model of this configuration in both engines.

    Returns:
        What was seen, for the artifact's record; why nothing was, where no small model can be made of it.

    Raises:
        BadInput: the converted model computes another function; with the fields that have no effect, where one alone
            explains the difference.
    """
    ids = torch.randint(3, _VOCABULARY, (1, _TOKENS), generator=torch.Generator().manual_seed(1))
    try:
        small = small_config(config)
        asked = _random_model(small)
        with tempfile.TemporaryDirectory() as scratch:
            source, target = Path(scratch) / "source", Path(scratch) / "target"
            asked.save_pretrained(source)
            engine.convert(source, target)
            scores = torch.as_tensor(engine.score(target, ids[0].tolist()), dtype=torch.float32)
        difference = _largest_difference(scores, asked, ids)
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001  # the model itself may well convert, and its engine tells where it does not
        return f"not compared with Transformers: no small model of this configuration: {first_line(error, 200)}"
    if difference > engine.tolerance_nat:
        lost = _without_effect(small, scores, ids, engine.tolerance_nat)
        fields = f"; without effect: {', '.join(lost)}" if lost else ""
        raise BadInput(
            f"{engine.name} does not compute what this model's config.json asks for: the log-probabilities of a small "
            f"model of the same configuration are off by up to {difference:.2g}{fields}",
            f"leave {engine.image} out for this model",
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
        if (
            width := getattr(config, name, None)
        ) is not None:  # some converters know no width but four times the model's
            changes[name] = 4 * few * head_size if width == 4 * config.hidden_size else _FEED_FORWARD
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
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention_for(config)
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
        expected = torch.log_softmax(model(ids).logits[0].float(), -1)
    if scores.dim() == 1:
        expected = expected[:-1].gather(1, ids[0, 1:, None])[:, 0]
    else:
        scores = scores[:, : expected.shape[1]]
    return float((scores - expected).abs().max())


def _without_effect(config: Any, scores: Any, ids: Any, tolerance_nat: float) -> list[str]:
    """Fields that alone explain the difference: at their default, the model is the one that was computed."""
    default = type(config)()
    found = []
    for name in sorted(config.to_diff_dict().keys() - _NOT_OF_THE_FUNCTION):
        for value in _neutral_values(getattr(config, name, None), getattr(default, name, None)):
            other = copy.deepcopy(config)
            setattr(other, name, value)
            if _explains(other, scores, ids, tolerance_nat):
                found.append(name)
                break
    return found


def _explains(config: Any, scores: Any, ids: Any, tolerance_nat: float) -> bool:
    """Whether this configuration is the one that was computed; one whose fields do not go together is not."""
    try:
        return _largest_difference(scores, _random_model(config), ids) <= tolerance_nat
    except Exception:  # noqa: BLE001
        return False


def _neutral_values(value: Any, default: Any) -> list[Any]:
    """What a field may be computed as that is not read; of a rope, also the same one without its scaling."""
    values = [copy.deepcopy(default)]
    if isinstance(value, dict) and "rope_theta" in value:
        values.append({"rope_type": "default", "rope_theta": value["rope_theta"]})
    return values
