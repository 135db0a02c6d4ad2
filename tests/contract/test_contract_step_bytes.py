"""Bytes of a decode step by hand: windows, one head for all, experts, tables, records that do not tell the layers."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bench_core.contract.measures.roofline import Weights
from bench_core.contract.models.decoder import AttentionLayers, Decoder
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.models.model_work import (
    decode_flop,
    decoder_of,
    kv_cache_bytes,
    kv_step_bytes,
    multiplying_parameters,
    prompt_flop,
)
from bench_core.contract.models.steps import DecodeSteps, PromptReading


def attention(count: int, **changes: Any) -> AttentionLayers:
    """Layers with 8 heads of keys and values of 64 numbers."""
    return AttentionLayers(**{"count": count, "kv_heads": 8, "key_dim": 64, "value_dim": 64, **changes})


def model(decoder: Decoder | None, **changes: Any) -> ModelInfo:
    """12 layers, 8 heads of 64, a table of 1000 x 512."""
    given: dict[str, Any] = {
        "name": "m", "folder": "m", "digest": "d", "synthetic": False, "architecture": "OtherForCausalLM",
        "dtype": "float16", "parameters": 40_000_000, "vocab_size": 1000, "context_length": 4096, "hidden_size": 512,
        "intermediate_size": 2048, "layers": 12, "attention_heads": 8, "kv_heads": 8, "head_dim": 64,
        "tied_embeddings": False, "bos_token_id": 1, "eos_token_ids": (2,), "decoder": decoder,
    }  # fmt: skip
    return ModelInfo(**{**given, **changes})


def at(context: int, rows: float = 1) -> DecodeSteps:
    """Steps whose rows all have the same context."""
    return DecodeSteps(steps=1, rows=rows, step_s=1, context_tokens=context, context_quantiles=(context,) * 21)


def kv(decoder: Decoder, steps: DecodeSteps) -> float:
    """Bytes of 16-bit keys and values that a step reads."""
    found = kv_step_bytes(model(decoder), 2, steps)
    assert found is not None
    return found


# Windows.


def test_a_window_of_32_at_315_tokens_is_32_tokens() -> None:
    """Full attention would be counted 315 / 32 = 9.84 times; with every second layer sliding 630 / 347 = 1.82 times;
    with nine of 25 attending to all 2.36 times, as was seen."""
    full, sliding = attention(1), attention(1, window=32)
    one = 8 * 128 * 2
    assert kv(Decoder(attention=(sliding,)), at(315)) == 32 * one
    assert kv(Decoder(attention=(full,)), at(315)) / kv(Decoder(attention=(sliding,)), at(315)) == 315 / 32
    half = Decoder(attention=(attention(6), attention(6, window=32)))
    assert kv(half, at(315)) == 6 * (315 + 32) * one
    of_25 = Decoder(attention=(attention(9), attention(16, window=32)))
    assert 25 * 315 * one / kv(of_25, at(315)) == pytest.approx(2.36, abs=0.01)


def test_a_window_wider_than_the_context_changes_nothing() -> None:
    assert kv(Decoder(attention=(attention(12, window=512),)), at(315)) == kv(
        Decoder(attention=(attention(12),)), at(315)
    )


def test_contexts_on_both_sides_of_a_window_are_not_averaged_before_they_are_cut() -> None:
    """Half of the rows at 20 positions and half at 300: 20 and 32 within the window, not min(160, 32)."""
    quantiles = tuple(20 if step <= 10 else 300 for step in range(21))
    steps = DecodeSteps(steps=1, rows=2, step_s=1, context_tokens=160, context_quantiles=quantiles)
    found = steps.within(32)
    assert found == pytest.approx(26, rel=0.02)
    seeded = random.Random(5)  # noqa: S311 - a sample, not a secret
    contexts = sorted(seeded.randrange(10, 500) for _ in range(5000))
    kept = tuple(contexts[max(0, -(-5000 * step // 20) - 1)] for step in range(21))
    spread = DecodeSteps(steps=1, rows=1, step_s=1, context_tokens=sum(contexts) / 5000, context_quantiles=kept)
    for window in (32, 100, 256, 499, 500):
        exact = sum(min(context, window) for context in contexts) / 5000
        assert spread.within(window) == pytest.approx(exact, rel=0.005), window


def test_where_contexts_are_not_told_a_window_has_no_figure() -> None:
    old = DecodeSteps(steps=1, rows=1, step_s=1, context_tokens=315)
    assert kv_step_bytes(model(Decoder(attention=(attention(12, window=32),))), 2, old) is None
    assert kv_step_bytes(model(Decoder(attention=(attention(12),))), 2, old) is not None


def test_behind_a_chunk_there_is_no_figure() -> None:
    chunks = model(Decoder(attention=(attention(12, window=128, chunked=True),)))
    assert kv_step_bytes(chunks, 2, at(128)) == 12 * 8 * 128 * 2 * 128
    assert kv_step_bytes(chunks, 2, at(129)) is None
    assert decode_flop(chunks, at(129)) is None


def test_the_cache_of_a_window_stops_growing() -> None:
    half = model(Decoder(attention=(attention(6), attention(6, window=32))))
    one = 6 * 8 * 128 * 2
    assert kv_cache_bytes(half, 2, 3 * 20, 3) == 3 * one * (20 + 20)
    assert kv_cache_bytes(half, 2, 3 * 315, 3) == 3 * one * (315 + 32)


def test_windows_count_in_operations_too() -> None:
    """4 x 12 layers x 512 for each attended position, and 2 for each weight that multiplies."""
    sliding = model(Decoder(attention=(attention(12, window=32),)))
    assert decode_flop(sliding, at(315)) == 2 * 40_000_000 + 4 * 12 * 512 * 32
    short = PromptReading(rows=1, prompt_tokens=30, attended_pairs=465, seconds=1, longest_prompt_tokens=30)
    assert prompt_flop(sliding, short) == 2 * 40_000_000 * 30 + 4 * 12 * 512 * 465
    assert prompt_flop(sliding, short.model_copy(update={"longest_prompt_tokens": 33})) is None
    assert prompt_flop(sliding, short.model_copy(update={"longest_prompt_tokens": None})) is None


# Heads.


def test_one_head_of_keys_and_values_is_an_eighth_of_eight() -> None:
    eight, one = Decoder(attention=(attention(12),)), Decoder(attention=(attention(12, kv_heads=1),))
    assert kv(eight, at(315)) == 8 * kv(one, at(315))


def test_keys_and_values_may_differ_in_size() -> None:
    latent = Decoder(attention=(attention(12, kv_heads=1, key_dim=512, value_dim=64, latent=True),))
    assert kv(latent, at(100)) == 12 * 576 * 2 * 100
    assert decode_flop(model(latent), at(100)) is None, "how an engine multiplies with compressed keys is its own"


# Experts.


def test_experts_that_a_batch_does_not_touch_are_not_read() -> None:
    """8 experts, 2 a token: one row reads 2 of them, four rows 1 - 0.75^4 = 68.36 % of all, 64 rows all."""
    mixture = model(Decoder(expert_parameters=32_000_000, experts=8, experts_per_token=2))
    held = Weights(total_bytes=80e6, embedding_bytes=1_024_000, expert_bytes=64e6, source="engine")
    assert held.read_bytes(mixture, 1) == 16e6 + 16e6
    assert held.read_bytes(mixture, 4) == pytest.approx(16e6 + 64e6 * 0.68359375)
    assert held.read_bytes(mixture, 64) == pytest.approx(80e6, rel=1e-6)
    assert multiplying_parameters(mixture) == 8_000_000 + 8_000_000
    unknown = held.model_copy(update={"expert_bytes": None})
    assert unknown.read_bytes(mixture, 4) is None


def test_the_expected_experts_are_those_of_a_uniform_router() -> None:
    seeded = random.Random(1)  # noqa: S311 - a sample, not a secret
    mixture = Decoder(expert_parameters=1, experts=16, experts_per_token=3)
    for rows in (1, 2, 5, 20):
        touched = [len({e for _ in range(rows) for e in seeded.sample(range(16), 3)}) for _ in range(4000)]
        expected = 16 * (1 - mixture.untouched_experts(rows))
        assert sum(touched) / len(touched) == pytest.approx(expected, rel=0.01), rows


# Tables.


def test_of_tables_a_token_takes_one_row_each() -> None:
    """A table of tokens of 1000 x 512 and one of positions of 2048 x 512, 16 bits."""
    tables = model(Decoder(table_parameters=3048 * 512, row_parameters=1024, head_parameters=512_000))
    held = Weights(total_bytes=80e6, embedding_bytes=1_024_000, source="engine")
    assert held.read_bytes(tables, 4) == 80e6 - 3048 * 512 * 2 + 4 * 1024 * 2
    assert held.read_bytes(tables, 4, tables_on_device=False) == 80e6 - 3048 * 512 * 2
    assert held.on_device(tables, True) == 80e6
    assert held.on_device(tables, False) == 80e6 - 3048 * 512 * 2


def test_a_table_that_is_the_output_layer_stays_on_the_device() -> None:
    tied = model(Decoder(head_parameters=512_000), tied_embeddings=True)
    held = Weights(total_bytes=80e6, embedding_bytes=1_024_000, source="engine")
    assert held.read_bytes(tied, 4) == held.on_device(tied, False) == 80e6


# Records that do not tell.


def test_an_old_record_is_known_only_where_all_layers_of_its_architecture_are_alike() -> None:
    old = model(None, architecture="LlamaForCausalLM")
    assert decoder_of(old) == Decoder(
        attention=(attention(12),), table_parameters=512_000, row_parameters=512, head_parameters=512_000
    )
    for name in ("MistralForCausalLM", "MambaForCausalLM", "GemmaForCausalLM", "Qwen2ForCausalLM"):
        assert decoder_of(model(None, architecture=name)).problem, name
    assert decoder_of(model(None, architecture="LlamaForCausalLM", parameters=90_000_000)).problem
