"""``model.json``: the facts of a prepared model that planning, measuring and the roofline need."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bench_core.contract.models.decoder import Decoder
from bench_core.contract.records.record import Record


class ModelInfo(Record):
    """A decoder-only language model. Sizes are as in its ``config.json``."""

    schema_version: Literal[1] = 1
    name: str = Field(description="as the user gave it: a hub id, a folder's name, synthetic/<shape>")
    folder: str = Field(description="its folder's name under models/")
    digest: str = Field(description="sha256 over the hf artifact's files")
    synthetic: bool = Field(description="weights are seeded random numbers of the true shape")
    architecture: str = Field(description="first entry of config.json's architectures")
    dtype: str = Field(description="of the stored weights: float32, float16, bfloat16")
    parameters: int = Field(gt=0, description="number of stored weights (tied ones once, buffers not)")
    vocab_size: int = Field(gt=0)
    context_length: int = Field(gt=0, description="max_position_embeddings")
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    layers: int = Field(gt=0)
    attention_heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    tied_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int = 0
    decoder: Decoder | None = Field(
        None, description="what its layers keep and read; not told in older records: see model_work.decoder_of"
    )

    @property
    def weights_bytes(self) -> int:
        """Size of the stored weights."""
        return self.parameters * (4 if self.dtype == "float32" else 2)
