"""What a Llama must write, computed in the plainest way: numpy, 64 bits, no cache, one prompt at a time.

Source: the model's published equations (RMSNorm, rotary embedding of halves, grouped-query attention, SwiGLU), as
``config.json`` parametrises them. Shares no code with the suite or an engine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.float64]


class ReferenceLlama:
    """A folder with ``config.json`` and one ``model.safetensors``."""

    def __init__(self, folder: Path) -> None:
        self._config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        stored = load_file(folder / "model.safetensors")
        self._weights: dict[str, Array] = {name: array.astype(np.float64) for name, array in stored.items()}

    def greedy(self, prompt: Sequence[int], new_tokens: int) -> tuple[int, ...]:
        """Exactly ``new_tokens`` ids after a prompt; the end of the sequence is not looked for."""
        ids = list(prompt)
        for _ in range(new_tokens):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return tuple(ids[len(prompt) :])

    def behind(self, prompt: Sequence[int], output: Sequence[int]) -> Array:
        """How far each id of a greedy output is behind the best one after the ids before it, in standard deviations of
        the logits: 0 where it is the best; shape (len(output),). One pass, whoever wrote the output."""
        logits = self.logits([*prompt, *output])[len(prompt) - 1 : -1]
        written = logits[np.arange(len(output)), np.asarray(output)]
        found: Array = (logits.max(axis=-1) - written) / logits.std(axis=-1)
        return found

    def log_likelihoods(self, ids: Sequence[int]) -> Array:
        """Natural logarithm of the probability of every id but the first; shape (len(ids) - 1,)."""
        logits = self.logits(ids)[:-1]
        top = logits.max(axis=-1, keepdims=True)
        normalised = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
        picked: Array = normalised[np.arange(len(ids) - 1), np.asarray(ids[1:])]
        return picked

    def logits(self, ids: Sequence[int]) -> Array:
        """Shape (len(ids), vocabulary)."""
        embedding = self._weights["model.embed_tokens.weight"]
        state: Array = embedding[np.asarray(ids)]
        for index in range(self._config["num_hidden_layers"]):
            layer = f"model.layers.{index}."
            state = state + self._attention(layer + "self_attn.", self._norm(layer + "input_layernorm", state))
            state = state + self._mlp(layer + "mlp.", self._norm(layer + "post_attention_layernorm", state))
        head = embedding if self._config["tie_word_embeddings"] else self._weights["lm_head.weight"]
        found: Array = self._norm("model.norm", state) @ head.T
        return found

    def _norm(self, name: str, state: Array) -> Array:
        scale = np.sqrt((state**2).mean(axis=-1, keepdims=True) + self._config["rms_norm_eps"])
        found: Array = state / scale * self._weights[f"{name}.weight"]
        return found

    def _mlp(self, name: str, state: Array) -> Array:
        gate = state @ self._weights[f"{name}gate_proj.weight"].T
        up = state @ self._weights[f"{name}up_proj.weight"].T
        found: Array = (gate / (1 + np.exp(-gate)) * up) @ self._weights[f"{name}down_proj.weight"].T
        return found

    def _attention(self, name: str, state: Array) -> Array:
        heads, kv_heads = self._config["num_attention_heads"], self._config["num_key_value_heads"]
        projected: list[Array] = [
            (state @ self._weights[f"{name}{part}_proj.weight"].T).reshape(len(state), count, -1).transpose(1, 0, 2)
            for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        ]
        queries, keys = self._rotated(projected[0]), self._rotated(projected[1])
        keys, values = (np.repeat(array, heads // kv_heads, axis=0) for array in (keys, projected[2]))
        weight = queries @ keys.transpose(0, 2, 1) / np.sqrt(queries.shape[-1])
        weight = np.where(np.tri(len(state), dtype=bool), weight, -np.inf)
        weight = np.exp(weight - weight.max(axis=-1, keepdims=True))
        weight /= weight.sum(axis=-1, keepdims=True)
        mixed = (weight @ values).transpose(1, 0, 2).reshape(len(state), -1)
        found: Array = mixed @ self._weights[f"{name}o_proj.weight"].T
        return found

    def _rotated(self, rows: Array) -> Array:
        """Rotates (heads, positions, width) by position: the first half of a row's width with the second."""
        half = rows.shape[-1] // 2
        theta = self._config["rope_parameters"]["rope_theta"]
        angles = np.arange(rows.shape[1])[:, None] / theta ** (np.arange(half) / half)
        first, second = rows[..., :half], rows[..., half:]
        return np.concatenate(
            [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)],
            axis=-1,
        )
