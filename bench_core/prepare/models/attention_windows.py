"""Which positions each layer of a model attends to, from ``config.json``: a rule for each model type that is known.

As transformers 5.17 reads these files. A model type that is not in the tables, or a setting that its rule does not
know, has no answer: a wrong number of bytes is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]


class UnknownLayers(Exception):
    """What is not known of a model's layers, in a few words."""


@dataclass(frozen=True)
class Window:
    """``positions`` that a token attends to at most; ``None``: all before it. See ``AttentionLayers``."""

    positions: int | None = None
    chunked: bool = False


FULL = Window()
# Layers that are all alike and attend to everything.
_FULL_TYPES = (
    *("apertus", "arcee", "bloom", "codegen", "cohere", "deepseek_v2", "deepseek_v3", "ernie4_5"),
    *("ernie4_5_moe", "flex_olmo", "gemma", "glm", "glm4", "glm4_moe", "gpt2", "gpt_bigcode"),
    *("gpt_neox", "gptj", "granite", "granitemoe", "granitemoeshared", "helium", "hunyuan_v1_dense", "llama"),
    *("mpt", "nemotron", "olmo", "olmo2", "olmoe", "opt", "persimmon", "phi", "seed_oss", "stablelm"),
)
# All layers have the window that ``sliding_window`` names, if it names one.
_SLIDING_TYPES = ("mistral", "mixtral", "phi3", "phimoe", "starcoder2")


def windows(config: Config, layers: int) -> list[Window]:
    """One for each layer.

    Raises:
        UnknownLayers: no rule for this model type or for one of its settings.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise UnknownLayers("config.json has no model_type")
    if config.get("num_kv_shared_layers"):
        raise UnknownLayers("layers share keys and values")
    rule = _RULES.get(kind)
    if rule is None:
        raise UnknownLayers(f"layers of the model type {kind[:40]} are not known")
    found = rule(config, layers)
    if len(found) != layers:
        raise UnknownLayers(f"{len(found)} kinds of attention are named for {layers} layers")
    return found


def _full(config: Config, layers: int) -> list[Window]:
    for key in ("sliding_window", "attention_chunk_size", "layer_types"):
        if config.get(key) is not None and config.get(key) != ["full_attention"] * layers:
            raise UnknownLayers(f"config.json has {key}, which this model type does not use")
    return [FULL] * layers


def _falcon(config: Config, layers: int) -> list[Window]:
    """Its newer architecture shares heads of keys and values; transformers 5.17 keeps a copy for each query's head,
    other engines do not."""
    if config.get("new_decoder_architecture"):
        raise UnknownLayers("engines keep different numbers of heads for new_decoder_architecture")
    return _full(config, layers)


def _sliding(config: Config, layers: int) -> list[Window]:
    if config.get("layer_types") is not None:
        return _named(config, layers)
    return [_window(config)] * layers


def _window(config: Config, default: int | None = None) -> Window:
    """The window of layers that slide; none where the file says null."""
    size = config.get("sliding_window", default)
    if size is None:
        return FULL
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise UnknownLayers(f"sliding_window is {str(size)[:40]}")
    return Window(size)


def _named(config: Config, layers: int, default: int | None = None) -> list[Window]:
    """By ``layer_types``, which names each layer's kind."""
    names = config["layer_types"]
    if not isinstance(names, list) or len(names) != layers:
        raise UnknownLayers("layer_types does not name each layer")
    found = []
    for name in names:
        if name == "full_attention":
            found.append(FULL)
        elif name == "sliding_attention" and _window(config, default) is not FULL:
            found.append(_window(config, default))
        else:
            raise UnknownLayers(f"layer_types names {str(name)[:40]}")
    return found


def _every(period: int, default: int | None) -> Callable[[Config, int], list[Window]]:
    """Every so many layers one that attends to all, the others slide; the file may name another pattern."""

    def rule(config: Config, layers: int) -> list[Window]:
        if config.get("layer_types") is not None:
            return _named(config, layers, default)
        pattern = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", period))
        if not isinstance(pattern, int) or isinstance(pattern, bool) or pattern < 1:
            raise UnknownLayers(f"sliding_window_pattern is {str(pattern)[:40]}")
        if config.get("use_bidirectional_attention"):
            raise UnknownLayers("attention is bidirectional")
        window = _window(config, default)
        return [window if (layer + 1) % pattern else FULL for layer in range(layers)]

    return rule


def _fixed(period: int, default: int) -> Callable[[Config, int], list[Window]]:
    """The same for model types whose pattern no file changes but by ``layer_types``."""

    def rule(config: Config, layers: int) -> list[Window]:
        if config.get("layer_types") is not None:
            return _named(config, layers, default)
        window = _window(config, default)
        return [window if (layer + 1) % period else FULL for layer in range(layers)]

    return rule


def _late(config: Config, layers: int) -> list[Window]:
    """Layers from ``max_window_layers`` on slide, where ``use_sliding_window`` says so."""
    slides = config.get("use_sliding_window", False)
    if config.get("layer_types") is not None:
        if not slides and "sliding_attention" in config["layer_types"]:
            raise UnknownLayers("layer_types names windows that use_sliding_window denies")
        return _named(config, layers, 4096)
    first = config.get("max_window_layers", 28)
    if not slides:
        return [FULL] * layers
    if not isinstance(first, int) or isinstance(first, bool):
        raise UnknownLayers(f"max_window_layers is {str(first)[:40]}")
    window = _window(config, 4096)
    return [window if layer >= first else FULL for layer in range(layers)]


def _never(config: Config, layers: int) -> list[Window]:
    """Model types whose windows engines read differently: known where there are none."""
    if config.get("use_sliding_window"):
        raise UnknownLayers("use_sliding_window is set, which engines read differently for this model type")
    return [FULL] * layers


def _without_rotation(config: Config, layers: int) -> list[Window]:
    """SmolLM3: layers without rotation slide, where ``use_sliding_window`` says so."""
    if config.get("layer_types") is not None:
        return _named(config, layers)
    if config.get("use_sliding_window"):
        raise UnknownLayers("windows follow from no_rope_layers")
    return [FULL] * layers


def _chunks(config: Config, layers: int) -> list[Window]:
    """Llama 4: layers that rotate attend within their chunk."""
    names = config.get("layer_types")
    if names is None:
        marks = config.get("no_rope_layers") or []
        step = config.get("no_rope_layer_interval", 4)
        if not marks and isinstance(step, int) and step > 0:
            marks = [int((layer + 1) % step != 0) for layer in range(layers)]
        names = ["chunked_attention" if mark else "full_attention" for mark in marks]
    size = config.get("attention_chunk_size", 8192)
    kinds = {"full_attention": FULL}
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        kinds["chunked_attention"] = Window(size, chunked=True)
    try:
        return [kinds[name] for name in names]
    except (KeyError, TypeError) as error:
        raise UnknownLayers(f"a layer's attention is {str(error)[:40]}") from error


_RULES: dict[str, Callable[[Config, int], list[Window]]] = {
    **dict.fromkeys(_FULL_TYPES, _full),
    **dict.fromkeys(_SLIDING_TYPES, _sliding),
    "falcon": _falcon,
    "ministral": _sliding,
    "qwen2": _late,
    "qwen3": _late,
    "qwen2_moe": _never,
    "qwen3_moe": _never,
    "gemma2": _fixed(2, 4096),
    "gemma3_text": _every(6, 4096),
    "cohere2": _every(4, 4096),
    "olmo3": _fixed(4, 4096),
    "gpt_oss": _fixed(2, 128),
    "smollm3": _without_rotation,
    "llama4_text": _chunks,
}
