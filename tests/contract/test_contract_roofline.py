"""Bytes, operations and verdicts against figures worked out by hand, for models whose sizes are published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench_core.contract.asked.protocol import MeasureProtocol
from bench_core.contract.measures.cell import CellEvents, CellMetrics, summarise
from bench_core.contract.measures.memory import MemoryUse
from bench_core.contract.measures.memory_model import activations_bytes, cache_tokens, explain_memory
from bench_core.contract.measures.min_memory import MinMemory, Trial
from bench_core.contract.measures.roofline import compute_dtype, kv_item_bytes, roofline, verdict, weights_in_memory
from bench_core.contract.measures.telemetry import TelemetrySummary
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.models.model_work import (
    decode_flop,
    is_dense,
    kv_bytes_per_token,
    kv_cache_bytes,
    multiplying_parameters,
    prompt_flop,
)
from bench_core.contract.models.steps import DecodeSteps, PromptReading, decode_steps, prompt_reading
from bench_core.contract.models.stored_weights import StoredWeights, stored_weights
from bench_core.contract.records.artifact import ArtifactRecord
from bench_core.contract.records.device_rates import DeviceRates, Measurement
from bench_core.contract.records.events import Arrivals, BatchEvent, EndEvent, StartEvent
from bench_core.contract.records.outcome import Outcome
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import WorkloadRef
from bench_core.contract.statistics.distribution import Distribution

FP16 = {"dtype": "float16"}


def model(**changes: Any) -> ModelInfo:
    """Llama-2-7B, as its ``config.json`` and its checkpoint have it."""
    given: dict[str, Any] = {
        "name": "7b", "folder": "7b", "digest": "d", "synthetic": False, "architecture": "LlamaForCausalLM",
        "dtype": "float16", "parameters": 6_738_415_616, "vocab_size": 32000, "context_length": 4096,
        "hidden_size": 4096, "intermediate_size": 11008, "layers": 32, "attention_heads": 32, "kv_heads": 32,
        "head_dim": 128, "tied_embeddings": False, "bos_token_id": 1, "eos_token_ids": (2,),
    }  # fmt: skip
    return ModelInfo(**{**given, **changes})


SMOLLM2 = model(
    name="135m", dtype="bfloat16", parameters=134_515_008, vocab_size=49152, context_length=8192, hidden_size=576,
    intermediate_size=1536, layers=30, attention_heads=9, kv_heads=3, head_dim=64, tied_embeddings=True,
)  # fmt: skip
LLAMA_3_8B = model(parameters=8_030_261_248, vocab_size=128256, intermediate_size=14336, kv_heads=8, dtype="bfloat16")
MIXTRAL = model(parameters=46_702_792_704, intermediate_size=14336, kv_heads=8)


def spec(**changes: Any) -> CellSpec:
    given: dict[str, Any] = {
        "image": "engine", "variant": "fp16", "label": "Engine fp16", "batching": "native", "token_times": "live",
        "batch_size": 1, "device": "cuda", "gpu_uuid": "GPU-1", "threads": 1, "model": model(), "artifact": "hf",
        "artifact_digest": None, "options": {}, "max_new_tokens": 200, "length": "forced",
        "protocol": MeasureProtocol(),
        "workload": WorkloadRef(name="w", digest="d", prompts=1, longest_prompt_tokens=100),
    }  # fmt: skip
    return CellSpec(**{**given, **changes})


def metrics(**changes: Any) -> CellMetrics:
    one = Distribution(n=1, mean=1.0, median=1.0, min=1.0, max=1.0)
    given: dict[str, Any] = {
        "batches": 1, "rows": 1, "warmup_batches": 1, "prompt_tokens": 100, "output_tokens": 200,
        "output_tokens_per_batch": 200.0, "batch_latency_s": one, "output_throughput_tok_s": 1.0, "ttft_s": None,
        "tpot_s": None, "itl_s": None, "token_times_source": None, "start_s": None, "load_s": None,
        "prepare_s": None, "batches_s": 1.0, "measured_s": 1.0, "device_memory": None, "host_memory": None,
    }  # fmt: skip
    return CellMetrics(**{**given, **changes})


def device_rates(**changes: Any) -> DeviceRates:
    """A device with 2 TB/s, 500 TFLOP/s in float16, 4 us a launch and a context of half a GiB."""

    def measured(kind: str, name: str, dtype: str, amount: float, seconds: float) -> Measurement:
        return Measurement.model_validate(
            {
                "kind": kind, "name": name, "dtype": dtype, "shape": (1,), "amount": amount, "iterations": 2,
                "samples_s": (seconds * 1.5, seconds, seconds * 1.1),
            }
        )  # fmt: skip

    given: dict[str, Any] = {
        "name": "v1.gpu-1", "wall_time_utc": "t", "device": "cuda", "gpu_uuid": "GPU-1", "cpu": "c", "threads": 1,
        "seconds": 3.0, "context_bytes": 1 << 29,
        "measurements": (
            measured("read", "sum", "float32", 1e9, 2e9 / 2e12),
            measured("copy", "copy", "float32", 1e9, 2e9 / 1.8e12),
            measured("matrix", "square", "float16", 1e12, 2e12 / 500e12),
            measured("skinny", "16 rows", "float16", 9e9, 1e-9),
            measured("launch", "chain", "float32", 100, 200 * 4e-6),
        ),
    }  # fmt: skip
    return DeviceRates(**{**given, **changes})


# Sizes of known models.


def test_weights_of_llama_2_7b_in_float16_are_13_48_gb() -> None:
    found = weights_in_memory(spec(), FP16)
    assert found is not None
    assert found.total_bytes == 13_476_831_232
    assert found.source == "architecture"


@pytest.mark.parametrize(
    ("of", "item", "kib"),
    [(model(), 2, 512), (LLAMA_3_8B, 2, 128), (SMOLLM2, 4, 45), (model(), 34 / 32, 272)],
)
def test_the_cache_of_one_position_is_as_published(of: ModelInfo, item: float, kib: float) -> None:
    """Llama-2-7B: 0.5 MiB in float16; grouped queries quarter it in Llama-3-8B."""
    assert kv_bytes_per_token(of, item) == kib * 1024


def test_gpus_share_the_heads_of_the_cache_and_each_keeps_one() -> None:
    """Llama-3-8B has 8 heads of keys and values."""
    assert [kv_bytes_per_token(LLAMA_3_8B, 2, gpus) / 1024 for gpus in (1, 2, 8, 16)] == [128, 128, 128, 256]


def test_a_full_context_of_llama_2_7b_caches_2_gib() -> None:
    assert kv_cache_bytes(model(), 2, 4096) == 2 * 2**30


def test_input_embeddings_are_read_by_row_unless_they_are_the_output_layer_too() -> None:
    assert multiplying_parameters(model()) == 6_738_415_616 - 32000 * 4096
    assert multiplying_parameters(SMOLLM2) == SMOLLM2.parameters
    found = weights_in_memory(spec(), FP16)
    assert found is not None
    assert found.read_bytes(model(), 4) == 13_476_831_232 - 2 * 32000 * 4096 + 4 * 2 * 4096
    tied = weights_in_memory(spec(model=SMOLLM2), {"dtype": "float32"})
    assert tied is not None
    assert tied.read_bytes(SMOLLM2, 4) == 4 * 134_515_008


def test_operations_of_one_token_of_llama_2_7b() -> None:
    """2 for each of 6.607 G multiplying weights, and 4 x 32 x 4096 for each of 1000 positions."""
    steps = DecodeSteps(steps=1, rows=1, step_s=1, context_tokens=1000)
    assert decode_flop(model(), steps) == 2 * 6_607_343_616 + 4 * 32 * 4096 * 1000


def test_reading_prompts_runs_the_output_layer_once_a_row() -> None:
    reading = PromptReading(rows=2, prompt_tokens=300, attended_pairs=100 * 101 / 2 + 200 * 201 / 2, seconds=1)
    body = 6_738_415_616 - 2 * 32000 * 4096
    expected = 2 * (body * 300 + 32000 * 4096 * 2) + 4 * 32 * 4096 * (5050 + 20100)
    assert prompt_flop(model(), reading) == expected


def test_a_mixture_of_experts_is_not_taken_for_a_dense_decoder() -> None:
    assert [is_dense(m) for m in (model(), LLAMA_3_8B, SMOLLM2, MIXTRAL)] == [True, True, True, False]
    steps = DecodeSteps(steps=1, rows=1, step_s=0.01, context_tokens=100)
    placed = roofline(spec(model=MIXTRAL), FP16, metrics(decode=steps), device_rates())
    assert placed is not None
    assert (placed.step_bytes, placed.mbu, placed.mfu, placed.bound) == (None, None, None, None)


# What an engine says of itself.


@pytest.mark.parametrize(
    ("facts", "dtype", "item"),
    [
        ({"dtype": "float16"}, "float16", 2),
        ({"dtype": "torch.bfloat16"}, "bfloat16", 2),
        ({"compute_type": "int8_float16"}, "float16", 2),
        ({"compute_type": "int8_float32"}, "float32", 4),
        ({"compute_type": "float16"}, "float16", 2),
        ({"dtype": "float32", "float32_matmul_precision": "highest"}, "float32", 4),
        ({"dtype": "float32", "float32_matmul_precision": "high"}, "tf32", 4),
        ({"kv_type": "f16"}, None, 2),
        ({"kv_type": "q8_0"}, None, 34 / 32),
        ({"dtype": "float16", "kv_dtype": "fp8"}, "float16", 1),
        ({"dtype": "float16", "kv_dtype": "of its own"}, "float16", None),
        ({}, None, None),
    ],
)
def test_dtypes_are_taken_from_facts_and_never_guessed(
    facts: dict[str, str], dtype: str | None, item: float | None
) -> None:
    assert compute_dtype(facts) == dtype
    assert kv_item_bytes(facts) == item


def test_weights_are_what_the_engine_holds_else_what_the_artifact_stores() -> None:
    """An engine that quantises while it reads has fewer bytes than the model; a converted artifact has its own."""
    told = weights_in_memory(spec(), {**FP16, "weights_bytes": "4000000000", "embedding_bytes": "262144000"})
    assert told is not None
    assert (told.total_bytes, told.embedding_bytes, told.source) == (4e9, 262144000, "engine")
    stored = StoredWeights(total_bytes=3_900_000_000, embedding_bytes=262144000)
    converted = weights_in_memory(spec(artifact="gptq-int4-g128", weights=stored), FP16)
    assert converted is not None
    assert (converted.total_bytes, converted.embedding_bytes, converted.source) == (3.9e9, 262144000, "artifact")
    unsplit = weights_in_memory(spec(artifact="gguf-q4", weights=StoredWeights(total_bytes=4_081_000_000)), {})
    assert unsplit is not None
    assert unsplit.embedding_bytes == pytest.approx(4_081_000_000 * 131_072_000 / 6_738_415_616)
    assert weights_in_memory(spec(artifact="gguf-q4"), FP16) is None  # a record of before sizes were kept
    assert weights_in_memory(spec(artifact="none"), FP16) is None
    assert weights_in_memory(spec(model=model(dtype="float32")), {}) is not None
    assert weights_in_memory(spec(), {**FP16, "weights_bytes": "-5"}) == weights_in_memory(spec(), FP16)


def test_the_header_of_a_checkpoint_tells_tensors_and_embeddings(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "model.embed_tokens.weight": {"dtype": "F16", "shape": [4, 8], "data_offsets": [0, 64]},
        "lm_head.weight": {"dtype": "F16", "shape": [4, 8], "data_offsets": [64, 128]},
        "model.layers.0.qweight": {"dtype": "I32", "shape": [8], "data_offsets": [128, 160]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 160)
    (tmp_path / "tokenizer.json").write_text("{}" * 1000)

    def found() -> StoredWeights | None:
        record = ArtifactRecord.of_folder(
            tmp_path, artifact="a", source_digest=None, converter_digest="", made_by="", seconds=0
        )
        return stored_weights(tmp_path, record)

    assert found() == StoredWeights(total_bytes=160, embedding_bytes=64, expert_bytes=0)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)  # not such a file: its size is all that is known
    assert found() == StoredWeights(total_bytes=100)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.gguf")
    assert found() == StoredWeights(total_bytes=100)
    (tmp_path / "model.gguf").rename(tmp_path / "notes.txt")
    assert found() is None


# Decode steps.


def batch(rows: Sequence[Sequence[int]], prompts: Sequence[int]) -> BatchEvent:
    return BatchEvent(
        phase="measure", index=0, prompts=tuple(range(len(rows))), prompts_digest="d", prompt_tokens=tuple(prompts),
        started_s=0.0, latency_s=1.0, outputs=tuple((7,) * len(row) for row in rows),
        arrivals=Arrivals(source="worker", shared=False, offsets_us=tuple(tuple(row) for row in rows)),
    )  # fmt: skip


def test_rows_in_step_give_the_step_and_the_mean_context() -> None:
    """First tokens at 100 ms, then 10 ms a step: three steps attend to the prompt and 1, 2, 3 tokens behind it."""
    row = [100_000, 110_000, 120_000, 130_000]
    found = decode_steps([batch([row, row], [10, 30])])
    assert found is not None
    assert found.steps == 3
    assert found.rows == 2
    assert found.step_s == pytest.approx(0.010)
    assert found.context_tokens == 20 + 2
    reading = prompt_reading([batch([row, row], [10, 30])])
    assert reading == PromptReading(
        rows=2, prompt_tokens=40, attended_pairs=55 + 465, seconds=0.1, longest_prompt_tokens=30
    )


def test_prompts_that_are_read_between_tokens_do_not_lengthen_the_step() -> None:
    """The first row waits 200 ms for the second one's prompt: the mean time per token would be 76 ms."""
    early, late = [100_000, 310_000, 320_000, 330_000], [300_000, 310_000, 320_000, 330_000]
    found = decode_steps([batch([early, late], [10, 10])])
    assert found is not None
    assert found.step_s == pytest.approx(0.010)
    assert found.rows == 2


def test_rows_one_after_the_other_are_steps_of_one_row() -> None:
    found = decode_steps([batch([[10_000, 20_000, 30_000], [50_000, 60_000, 70_000]], [10, 20])])
    assert found is not None
    assert found.model_copy(update={"context_quantiles": None}) == DecodeSteps(
        steps=4, rows=1, step_s=0.010, context_tokens=16.5
    )
    assert found.context_quantiles == (*(11,) * 6, *(12,) * 5, *(21,) * 5, *(22,) * 5)
    assert prompt_reading([batch([[10_000, 20_000, 30_000], [50_000, 60_000, 70_000]], [10, 20])]) is None


@pytest.mark.parametrize(
    "rows",
    [
        [[500_000, 500_000, 500_000]],  # all at once: the engine does not stream
        [[10_000], [10_000]],  # one token each: no decode step
        [[10_000, 20_000], [15_000, 30_000], [25_000, 40_000]],  # neither together nor in turn
    ],
)
def test_no_step_is_made_up(rows: list[list[int]]) -> None:
    assert decode_steps([batch(rows, [5] * len(rows))]) is None


# Roofs and verdicts.


def test_a_roof_is_the_best_sample_of_the_right_kind() -> None:
    roofs = device_rates()
    assert roofs.bandwidth_bytes_s == pytest.approx(2e12)
    assert roofs.matrix_flop_s("float16") == pytest.approx(500e12)
    assert roofs.matrix_flop_s("bfloat16") is None
    assert roofs.launch_s == pytest.approx(4e-6)


def test_mbu_of_a_step_by_hand() -> None:
    """13.215 GB of weights and 0.105 GB of cache in 10 ms are 1.332 TB/s of 2."""
    steps = DecodeSteps(steps=100, rows=1, step_s=0.010, context_tokens=200)
    placed = roofline(spec(), FP16, metrics(decode=steps), device_rates())
    assert placed is not None
    step_bytes = 13_476_831_232 - 262_144_000 + 8192 + 200 * 524_288
    assert placed.step_bytes == step_bytes
    assert placed.mbu == pytest.approx(step_bytes / 0.010 / 2e12)
    assert placed.mfu == pytest.approx((2 * 6_607_343_616 + 4 * 32 * 4096 * 200) / 0.010 / 500e12)
    assert placed.bound == "bandwidth-bound"
    assert placed.least_step_s == pytest.approx(step_bytes / 2e12)


def test_without_roofs_there_are_bytes_but_no_utilisation() -> None:
    steps = DecodeSteps(steps=100, rows=1, step_s=0.010, context_tokens=200)
    placed = roofline(spec(), FP16, metrics(decode=steps), None)
    assert placed is not None
    assert placed.step_bytes is not None
    assert (placed.mbu, placed.mfu, placed.bound) == (None, None, None)
    assert roofline(spec(), FP16, metrics(), device_rates()) is None


def test_a_slow_eager_step_is_the_hosts_only_where_launches_or_an_idle_gpu_say_so() -> None:
    """32 layers x 12 launches x 4 us are 1.5 ms: no excuse for 40 ms, half of 3 ms."""
    tiny = spec(model=SMOLLM2)
    slow = DecodeSteps(steps=1, rows=1, step_s=0.040, context_tokens=100)
    placed = roofline(tiny, FP16, metrics(decode=slow), device_rates())
    assert placed is not None
    assert placed.bound == "mixed"
    quick = slow.model_copy(update={"step_s": 0.0028})
    placed = roofline(tiny, FP16, metrics(decode=quick), device_rates())
    assert placed is not None
    assert placed.bound == "host-bound"
    assert placed.launching == pytest.approx(30 * 12 * 4e-6 / 0.0028)
    ggml = {"system_info": "CUDA : ARCHS = 900 | USE_GRAPHS = 1 |"}
    for said in ({"cuda_graphs": "FULL_AND_PIECEWISE"}, {"compiled": "yes"}, ggml):  # one launch for many kernels
        placed = roofline(tiny, {**FP16, **said}, metrics(decode=quick), device_rates())
        assert placed is not None
        assert (placed.bound, placed.launching) == ("mixed", None)
    for said in ({"cuda_graphs": "NONE"}, {"compiled": "no"}):
        placed = roofline(tiny, {**FP16, **said}, metrics(decode=quick), device_rates())
        assert placed is not None
        assert placed.bound == "host-bound"
    idle = TelemetrySummary(samples=9, longest_gap_s=0.1, gaps=0, utilisation=0.5)
    placed = roofline(tiny, FP16, metrics(decode=slow, telemetry=idle), device_rates())
    assert placed is not None
    assert placed.bound == "host-bound"


def test_far_below_every_matrix_rate_an_engine_need_not_say_what_it_computes_in() -> None:
    """13.2 GFLOP in 30 ms are 0.4 TFLOP/s; the slowest that was measured is 500, or 0.5 where float32 was, too."""
    told = {"kv_type": "f16", "weights_bytes": "13476831232", "embedding_bytes": "262144000"}
    steps = DecodeSteps(steps=100, rows=1, step_s=0.030, context_tokens=200)
    placed = roofline(spec(), told, metrics(decode=steps), device_rates())
    assert placed is not None
    assert placed.mbu is not None
    assert (placed.mfu, placed.bound) == (None, "mixed")
    roofs = device_rates()
    (matrix,) = (m for m in roofs.measurements if m.kind == "matrix")
    slow = matrix.model_copy(update={"dtype": "float32", "samples_s": tuple(s * 1000 for s in matrix.samples_s)})
    both = roofs.model_copy(update={"measurements": (*roofs.measurements, slow)})
    assert both.slowest_matrix_flop_s == pytest.approx(0.5e12)
    placed = roofline(spec(), told, metrics(decode=steps), both)
    assert placed is not None
    assert (placed.mfu, placed.bound) == (None, None), "0.9 of what it may be computing in"


@pytest.mark.parametrize(
    ("numbers", "bound"),
    [
        ((0.60, 0.10, None, None), "bandwidth-bound"),
        ((0.70, None, 0.2, 0.9), "bandwidth-bound"),
        ((0.30, 0.60, None, None), "compute-bound"),
        ((0.60, 0.60, None, None), "mixed"),
        ((0.59, 0.59, None, None), "mixed"),
        ((0.59, 0.10, 0.79, None), "host-bound"),
        ((0.59, 0.10, 0.80, None), "mixed"),
        ((0.59, 0.10, 1.0, 0.5), "host-bound"),
        ((0.59, None, 0.1, 0.9), None),  # it may be near the roof that is not known
        ((None, 0.10, 0.1, 0.9), None),
        ((None, None, None, None), None),
    ],
)
def test_a_verdict_follows_from_its_numbers_alone(numbers: tuple[Any, ...], bound: str | None) -> None:
    found, evidence = verdict(*numbers)
    assert found == bound
    assert bool(evidence) is (bound is not None)


# Memory explained.

USE = MemoryUse(
    baseline_bytes=600 << 20, load_peak_bytes=None, after_load_bytes=None, after_prepare_bytes=None,
    peak_bytes=(600 << 20) + 15_000_000_000, mean_bytes=None,
)  # fmt: skip


def test_memory_is_the_sum_of_its_parts_and_the_rest_is_told() -> None:
    """Llama-2-7B, 16 rows of 100 + 200 tokens: 13.48 GB weights, 2.52 GB cache, activations of 1600 tokens."""
    of_16 = metrics(rows=16, prompt_tokens=1600, longest_batch_tokens=16 * 300, device_memory=USE)
    assert explain_memory(spec(batch_size=16), FP16, of_16, device_rates(), None) is None, (
        "an old record: which layout?"
    )
    told = {**FP16, "kv_layout": "rectangle"}
    found = explain_memory(spec(batch_size=16), told, of_16, device_rates(), None)
    assert found is not None
    assert explain_memory(spec(batch_size=16), {**FP16, "cache": "dynamic"}, of_16, device_rates(), None) == found
    assert found.weights_bytes == 13_476_831_232
    assert found.kv_cache_bytes == 16 * 300 * 524_288
    assert found.activations_bytes == 1600 * (2 * 4096 + 3 * 11008) * 2 + 16 * 32000 * 6
    assert found.context_bytes == 1 << 29
    assert found.predicted_bytes == sum(
        (found.weights_bytes, found.kv_cache_bytes, found.activations_bytes, found.context_bytes or 0)
    )
    assert found.measured_bytes == 15_000_000_000
    assert found.unexplained_bytes == 15_000_000_000 - found.predicted_bytes
    assert found.difference == found.unexplained_bytes / 15_000_000_000


def test_an_engine_that_reserves_is_explained_at_its_smallest_budget() -> None:
    """What it reserved beyond weights and cache is nobody's need; of the trial counts the one batch that it had."""
    told = metrics(longest_batch_tokens=300, device_memory=USE, reserved_bytes=60 << 30, used_bytes=14 << 30)
    assert explain_memory(spec(), FP16, told, None, None) is None
    trial = Trial(
        value=0.2, number=3, outcome=Outcome.OK, sustained=True, device_peak_bytes=(600 << 20) + 14_000_000_000,
        prompt_tokens=70, cache_tokens=270,
    )  # fmt: skip
    search = MinMemory(
        cell="c", option="o", unit="fraction", low=0.05, high=0.95, trials=(trial,), smallest=0.2
    )  # fmt: skip
    found = explain_memory(spec(), {**FP16, "cuda_graphs_bytes": str(1 << 29)}, told, None, search)
    assert found is not None
    assert found.at_smallest_budget
    assert found.measured_bytes == 14_000_000_000
    assert found.context_bytes is None
    assert found.kv_cache_bytes == 270 * 524_288
    assert found.activations_bytes == activations_bytes(model(), 2, 70, 1)
    assert found.graphs_bytes == 1 << 29
    parts = (found.weights_bytes, found.kv_cache_bytes, found.activations_bytes, 1 << 29)
    assert found.predicted_bytes == sum(parts)


def test_rows_of_unequal_length_take_what_the_engine_keeps_of_them() -> None:
    """Rows of 100, 60 and 20 positions: a rectangle of 300, 180 in pages; where ended rows leave, two rows of 60 are
    most, when the first of the three has gone."""
    ragged = metrics(
        rows=3, prompt_tokens=150, output_tokens=30, longest_batch_tokens=300, shrinking_batch_tokens=120,
        held_batch_tokens=180,
    )  # fmt: skip
    assert cache_tokens({}, ragged) == 300
    assert cache_tokens({"kv_layout": "rectangle"}, ragged) == 300
    assert cache_tokens({"kv_layout": "paged"}, ragged) == 180
    assert cache_tokens({"kv_layout": "shrinking"}, ragged) == 120
    assert cache_tokens({"kv_positions": "768", "kv_layout": "rectangle"}, ragged) == 768


def test_a_batch_whose_rows_end_early_is_counted_when_it_needs_most() -> None:
    """CTranslate2 at 64 rows was predicted 11.4 GiB too much: one row of 825 positions stretched all 64."""
    rows = {"prompts": (0, 1, 2), "prompt_tokens": (70, 40, 10), "outputs": ((7,) * 30, (7,) * 20, (7,) * 10)}
    one = batch([[10], [10], [10]], [1, 1, 1]).model_copy(update={**rows, "arrivals": None})
    events = CellEvents()
    events.start = StartEvent(t_s=0, wall_time_utc="2026-01-01T00:00:00Z", versions={}, host={})
    events.batches["measure"] = [one]
    events.end = EndEvent(t_s=9, outcome=Outcome.OK)
    found = summarise("c", events).metrics
    assert found.longest_batch_tokens == 3 * 100
    assert found.shrinking_batch_tokens == max(1 * 100, 2 * 60, 3 * 20)
    assert found.held_batch_tokens == 100 + 60 + 20


def test_tables_that_stay_on_the_host_are_not_explained_on_the_gpu() -> None:
    """Input embeddings of 262 MB beside 3.9 GB of 4-bit weights; where an engine of its own artifact does not say where
    they lie, as in older records, nothing is explained."""
    stored = StoredWeights(total_bytes=3_900_000_000, embedding_bytes=262_144_000)
    of_1 = metrics(longest_batch_tokens=300, device_memory=USE)
    cell = spec(artifact="gguf-q4_k_m", weights=stored)
    assert explain_memory(cell, FP16, of_1, None, None) is None
    on_host = explain_memory(cell, {**FP16, "embeddings": "cpu"}, of_1, None, None)
    on_gpu = explain_memory(cell, {**FP16, "embeddings": "cuda"}, of_1, None, None)
    assert on_host is not None
    assert on_gpu is not None
    assert (on_gpu.weights_bytes, on_host.weights_bytes) == (3_900_000_000, 3_900_000_000 - 262_144_000)


def test_nothing_is_explained_where_nothing_is_known() -> None:
    told = metrics(longest_batch_tokens=300, device_memory=USE)
    assert explain_memory(spec(), {"kv_dtype": "?"}, told, None, None) is None
    assert explain_memory(spec(), FP16, metrics(longest_batch_tokens=300), None, None) is None
    assert explain_memory(spec(artifact="none"), FP16, told, None, None) is None
    assert explain_memory(spec(model=MIXTRAL), FP16, told, None, None) is None
    assert activations_bytes(model(), 2, 0, 1) == 32000 * 6
