"""What the layers of a model keep and read: keys and values, windows, experts, tables of embeddings.

Sources. Grouped queries: Ainslie et al., "GQA", 2023. Sliding windows: Beltagy et al., "Longformer", 2020. Latent keys
and values: DeepSeek-AI, "DeepSeek-V2", 2024. Experts: Shazeer et al., "Outrageously Large Neural Networks", 2017.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from bench_core.contract.records.record import Record


class AttentionLayers(Record):
    """Layers that are alike.

    Attributes:
        count: how many of them the model has.
        window: positions that a token attends to at most, itself included; ``None``: all before it.
        chunked: the window is the chunk that a token lies in, and not the positions right before it.
        kv_heads, key_dim, value_dim: of one position, kv_heads x (key_dim + value_dim) numbers are kept.
        latent: the numbers kept are a compressed form of which keys and values are made (multi-head latent attention).
    """

    count: int = Field(gt=0)
    window: int | None = Field(None, gt=0)
    chunked: bool = False
    kv_heads: int = Field(gt=0)
    key_dim: int = Field(gt=0)
    value_dim: int = Field(gt=0)
    latent: bool = False

    @property
    def numbers(self) -> int:
        """Of one position of one row, in all these layers."""
        return self.count * self.kv_heads * (self.key_dim + self.value_dim)

    def numbers_on(self, gpus: int) -> int:
        """The same on several GPUs together that share the heads, of which each keeps one at least."""
        return self.count * max(self.kv_heads, gpus) * (self.key_dim + self.value_dim)

    def held(self, positions: float) -> float:
        """Positions that are kept of a row with so many."""
        return positions if self.window is None else min(positions, self.window)


class Decoder(Record):
    """A model's layers and groups of weights, as far as they decide what a step reads.

    Attributes:
        attention: all layers that keep keys and values.
        table_parameters: input tables of which a step takes rows (tokens, learned positions); a token table that is the
            output layer as well is none of them.
        row_parameters: numbers that one token takes of these tables.
        head_parameters: of the output layer, be it the token table.
        expert_parameters: of all routed experts of all layers; 0 without any. Shared experts are none of them.
        experts, experts_per_token: of each layer that routes.
        problem: what is not known of the layers, and then nothing may be counted; empty where all is.
    """

    attention: tuple[AttentionLayers, ...] = ()
    table_parameters: int = Field(0, ge=0)
    row_parameters: int = Field(0, ge=0)
    head_parameters: int = Field(0, ge=0)
    expert_parameters: int = Field(0, ge=0)
    experts: int = Field(0, ge=0)
    experts_per_token: int = Field(0, ge=0)
    problem: str = ""

    @model_validator(mode="after")
    def _some_of_all(self) -> Decoder:
        if self.experts_per_token > self.experts:
            raise ValueError("a token is given to more experts than there are")
        return self

    def untouched_experts(self, tokens: float) -> float:
        """Share of the routed experts that a step of so many tokens is expected not to need: (1 - k/E)^tokens, for a
        router that gives each token k of E experts with equal chances and tokens that choose independently."""
        if not self.experts:
            return 0.0
        return float((1.0 - self.experts_per_token / self.experts) ** tokens)

    def kv_numbers(self, positions: float) -> float:
        """Numbers kept of one row with so many positions."""
        return sum(layers.numbers * layers.held(positions) for layers in self.attention)

    @property
    def longest_window(self) -> int | None:
        """The widest window; ``None`` where no layer has one."""
        return max((layers.window for layers in self.attention if layers.window is not None), default=None)
