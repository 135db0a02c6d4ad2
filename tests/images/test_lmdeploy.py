"""What the image of LMDeploy asks of TurboMind, and what it makes of its answers. A stand-in plays the engine.

The files under tests/data/turbomind were written by TurboMind 0.18.0 itself, for layers of 4096 by 4096: the engine's
library was told by a stand-in for CUDA's run time that it is on a GPU of compute capability 9.0, or 8.0.
"""

from __future__ import annotations

import asyncio
import enum
import json
import os
import struct
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy
import pytest
from conftest import ROOT
from image_module import image_module
from safetensors.numpy import save_file

from bench_core.contract.adapter import Decoding, Device, Variant
from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.errors import BadInput
from bench_core.contract.measures.roofline import told_bytes
from bench_core.contract.models.decoder import AttentionLayers, Decoder
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.records.outcome import Outcome
from bench_core.worker.engine.sink import StampingSink

RECORDS = ROOT / "tests" / "data" / "turbomind"
OPTIONS: Mapping[str, Any] = {
    "dtype": "float16", "max_batch_size": 8, "max_prefill_token_num": 64, "cache_max_entry_count": 0.5,
}  # fmt: skip
CONFIG = {
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 256,
    "tie_word_embeddings": False,
}  # fmt: skip
MODEL = ModelInfo(
    name="m", folder="m", digest="d", synthetic=True, architecture="LlamaForCausalLM", dtype="float16",
    parameters=1000, vocab_size=10, context_length=128, hidden_size=256, intermediate_size=512, layers=2,
    attention_heads=4, kv_heads=2, head_dim=64, tied_embeddings=False, bos_token_id=1, eos_token_ids=(2,),
)  # fmt: skip
KV_TOKEN_BYTES = 2 * 2 * 2 * 64 * 2  # keys and values, layers, heads, their size, 16 bits

Status = enum.Enum("Status", "SUCCESS FINISH INTERNAL_ENGINE_ERROR OUT_OF_MEMORY INPUT_LENGTH_ERROR")


class Asked(SimpleNamespace):
    """A configuration of the engine: what it was made of."""


class Instance:
    """A request object: writes what its engine's script says, several tokens in one event where that has several."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def async_stream_infer(
        self, session_id: int, input_ids: list[int], gen_config: Any, stream_output: bool
    ) -> AsyncIterator[Any]:
        engine = self._engine
        engine.asked.append(Asked(session_id=session_id, ids=input_ids, config=gen_config, stream=stream_output))
        engine.running += 1
        engine.most_running = max(engine.most_running, engine.running)
        try:
            written: list[int] = []
            for event in engine.script(input_ids, gen_config):
                await asyncio.sleep(0)
                engine.now += 1
                if isinstance(event, Status):
                    yield SimpleNamespace(status=event, token_ids=[])
                    return
                written += event
                if stream_output:
                    yield SimpleNamespace(status=Status.SUCCESS, token_ids=event)
            rest = [] if stream_output else written
            logits = [[0.0] * 4] * (len(input_ids) + 1)
            yield SimpleNamespace(status=Status.FINISH, token_ids=rest, logits=logits)
        finally:
            engine.running -= 1


def counting(input_ids: Sequence[int], config: Any) -> Iterator[list[int]]:
    """One token a step: the prompt's last, counted on from; an end that is not ignored ends the row."""
    for step in range(1, config.max_new_tokens + 1):
        yield [input_ids[-1] + step]
        if not config.ignore_eos and input_ids[-1] + step in (config.stop_token_ids or []):
            return


class TurboMind:
    """Reserves its cache when it is made, and writes its choice of kernels, as the engine does."""

    made: list[TurboMind] = []
    records: bytes = (RECORDS / "sm90.records").read_bytes()
    refuses: Exception | None = None

    @classmethod
    def from_pretrained(cls, path: str, engine_config: Any) -> TurboMind:
        if cls.refuses:
            raise cls.refuses
        made = cls()
        made.path, made.engine_config = path, engine_config
        made.engine_config.model_format = None
        made.devices = list(range(engine_config.tp))
        made.health_executor = mock.MagicMock()
        made.instances, made.closed = 0, False
        made.asked, made.script = [], counting
        made.running = made.most_running = made.now = 0
        sys.modules["lmdeploy.turbomind.turbomind"].Tokenizer(path)
        made._create_engine()
        cls.made.append(made)
        return made

    path: str
    engine_config: Any
    devices: list[int]
    health_executor: Any
    instances: int
    closed: bool
    asked: list[Any]
    script: Any
    running: int
    most_running: int
    now: int

    def _create_engine(self) -> None:
        Path(os.environ["TM_GEMM_EXPORT"]).write_bytes(self.records)

    def create_instance(self) -> Instance:
        self.instances += 1
        return Instance(self)

    def close(self) -> None:
        assert not self.running
        self.closed = True


class TorchError(RuntimeError):
    """What torch raises where a device has no room."""


def _no_tokenizer(path: str) -> None:
    raise OSError(f"{path} has no tokenizer")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    torch = mock.MagicMock(name="torch")
    torch.OutOfMemoryError = TorchError
    torch.cuda.mem_get_info = lambda device: (1000 - 100 * device, 2000)
    messages: Any = ModuleType("lmdeploy.messages")
    messages.ResponseType, messages.GenerationConfig = Status, Asked

    def engine_config(**asked: Any) -> Asked:
        return Asked(cache_block_seq_len=64, communicator="nccl", **asked)

    messages.TurbomindEngineConfig = engine_config
    package: Any = ModuleType("lmdeploy.turbomind")
    package.TurboMind, package._import_error, package.is_available = TurboMind, None, lambda: True
    helpers: Any = ModuleType("lmdeploy.turbomind.turbomind")
    helpers.Tokenizer = _no_tokenizer
    package.turbomind = helpers
    whole: Any = ModuleType("lmdeploy")
    whole.turbomind, whole.messages = package, messages
    ours = {name: None for name in sys.modules if name.startswith("images")}
    stand_ins = {
        "torch": torch, "lmdeploy": whole, "lmdeploy.messages": messages, "lmdeploy.turbomind": package,
        "lmdeploy.turbomind.turbomind": helpers, "dispatch": image_module("lmdeploy", "dispatch"),
        "weights": image_module("lmdeploy", "weights"),
    }  # fmt: skip
    monkeypatch.setattr(TurboMind, "made", [])
    with mock.patch.dict(sys.modules, stand_ins):
        for name in ours:
            del sys.modules[name]
        yield image_module("lmdeploy", "adapter")


def loaded(module: ModuleType, folder: Path, gpus: int = 1, model: ModelInfo = MODEL, **options: Any) -> Any:
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    adapter = module.LmdeployAdapter()
    adapter.take_model(model)
    others = tuple(f"GPU-{number}" for number in range(1, gpus))
    adapter.load(folder, Variant("fp16", "hf", {**OPTIONS, **options}), Device("cuda", uuid="GPU-0", others=others))
    return adapter


def quiet(rows: int, wanted: bool = False, clock: Any = lambda: 0) -> StampingSink:
    return StampingSink(rows, clock, wanted=wanted)


def test_it_is_loaded_for_sequences_as_long_as_a_step(module: ModuleType, tmp_path: Path) -> None:
    """The engine reads no more prompt tokens in a step than one sequence may have."""
    adapter = loaded(module, tmp_path)
    (engine,) = TurboMind.made
    config = engine.engine_config
    assert config.session_len == config.max_prefill_token_num + config.max_batch_size == 72
    assert (config.dtype, config.tp, config.enable_prefix_caching, config.cache_max_entry_count) == (
        "float16",
        1,
        False,
        0.5,
    )
    assert engine.path == str(tmp_path)
    assert "TM_GEMM_EXPORT" not in os.environ
    assert sys.modules["lmdeploy.turbomind.turbomind"].Tokenizer is _no_tokenizer
    adapter.close()


def test_rows_are_in_the_engine_together_and_come_back_in_order(module: ModuleType, tmp_path: Path) -> None:
    adapter = loaded(module, tmp_path)
    adapter.prepare(3, 10, 4)
    (engine,) = TurboMind.made
    sink = quiet(3, wanted=True, clock=lambda: engine.now)
    done = adapter.generate([[1, 10], [20], [3, 30]], Decoding(max_new_tokens=4), sink)
    assert [list(row.token_ids) for row in done] == [[11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34]]
    assert engine.most_running == 3
    assert [len(row) for row in sink._rows] == [4, 4, 4]
    assert all(first < last for first, *_, last in sink._rows), "stamped as they came, not at the end"
    assert len({asked.session_id for asked in engine.asked}) == 3
    assert all(asked.stream for asked in engine.asked)
    adapter.close()


def test_a_late_reader_gets_several_tokens_at_once(module: ModuleType, tmp_path: Path) -> None:
    adapter = loaded(module, tmp_path)
    adapter.prepare(1, 10, 4)
    TurboMind.made[0].script = lambda _ids, _config: [[5], [6, 7, 8]]
    sink = quiet(1, wanted=True, clock=lambda: TurboMind.made[0].now)
    (row,) = adapter.generate([[1]], Decoding(max_new_tokens=4), sink)
    assert list(row.token_ids) == [5, 6, 7, 8]
    assert [list(stamps) for stamps in sink._rows] == [[1, 2, 2, 2]]
    adapter.close()


def test_a_forced_length_passes_over_every_end_and_a_natural_one_stops_with_it(
    module: ModuleType, tmp_path: Path
) -> None:
    adapter = loaded(module, tmp_path)
    adapter.prepare(1, 10, 5)
    (engine,) = TurboMind.made
    (forced,) = adapter.generate([[10]], Decoding(max_new_tokens=5), quiet(1))
    assert len(forced.token_ids) == 5
    (natural,) = adapter.generate([[10]], Decoding(max_new_tokens=5, eos_token_ids=(12, 99)), quiet(1))
    assert list(natural.token_ids) == [11, 12], "the end is the row's last token"
    first, second = (asked.config for asked in engine.asked)
    assert (first.ignore_eos, first.stop_token_ids) == (True, None)
    assert (second.ignore_eos, second.stop_token_ids) == (False, [12, 99])
    assert (first.top_k, first.temperature) == (1, 1.0)
    assert not engine.asked[0].stream, "nobody wants to be told"
    adapter.close()


@pytest.mark.parametrize(
    ("status", "outcome"), [(Status.OUT_OF_MEMORY, Outcome.OOM_KV), (Status.INTERNAL_ENGINE_ERROR, None)]
)
def test_a_row_that_the_engine_gives_up_fails_the_batch_when_all_have_ended(
    module: ModuleType, tmp_path: Path, status: Status, outcome: Outcome | None
) -> None:
    adapter = loaded(module, tmp_path)
    adapter.prepare(2, 10, 4)
    (engine,) = TurboMind.made
    engine.script = lambda ids, config: [[1], status] if ids == [7] else counting(ids, config)
    with pytest.raises(module.RowFailed, match=status.name) as failed:
        adapter.generate([[7], [20]], Decoding(max_new_tokens=4), quiet(2))
    assert adapter.classify(failed.value) == outcome
    assert engine.running == 0, "no request is left behind in the engine"
    adapter.close()


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", Outcome.OOM_KV),
        ("turbomind does not support /m. Plz try pytorch engine instead.", Outcome.UNSUPPORTED),
        ('Unsupported group_size=64 for model_format="gptq"', Outcome.UNSUPPORTED),
        ("unsupported quant config: {'desc_act': True}", Outcome.UNSUPPORTED),
        ("no GEMM kernel family for this component", Outcome.UNSUPPORTED),
        ("w1: <Family> requires K >= 128, K % 64 == 0", Outcome.UNSUPPORTED),
        ("something else", None),
    ],
)
def test_what_its_errors_mean(module: ModuleType, words: str, outcome: Outcome | None) -> None:
    assert module.LmdeployAdapter().classify(RuntimeError(words)) == outcome


def test_a_library_that_is_not_there_is_said_with_its_reason(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package: Any = sys.modules["lmdeploy.turbomind"]
    monkeypatch.setattr(package, "is_available", lambda: False)
    monkeypatch.setattr(package, "_import_error", ImportError("libcublas.so.12: cannot open shared object file"))
    with pytest.raises(RuntimeError, match="libcublas") as failed:
        loaded(module, tmp_path)
    assert module.LmdeployAdapter().classify(failed.value) == Outcome.UNSUPPORTED


def test_shapes_that_it_was_not_loaded_for_are_refused(module: ModuleType, tmp_path: Path) -> None:
    adapter = loaded(module, tmp_path)
    with pytest.raises(BadInput, match="a batch of 9"):
        adapter.prepare(9, 10, 10)
    with pytest.raises(BadInput, match="rows of 73 tokens"):
        adapter.prepare(1, 60, 13)
    adapter.prepare(8, 60, 12)
    assert TurboMind.made[0].instances == 8
    adapter.prepare(2, 5, 5)
    assert TurboMind.made[0].instances == 8, "request objects are used again"
    adapter.close()


def test_a_share_of_what_was_free_is_the_cache(module: ModuleType, tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": numpy.zeros((10, 4), "float32")}, tmp_path / "model.safetensors")
    adapter = loaded(module, tmp_path, gpus=2)
    adapter.prepare(1, 1, 1)
    weights = 10 * 4 * 2
    # Half of the 900 bytes that are free on the second GPU, on each of two; a row needs a block of 64 tokens.
    assert adapter.memory() == {"reserved_bytes": weights + 900, "used_bytes": weights + 900}
    told = adapter.describe()
    assert (told["tensor_parallel_size"], told["communicator"], told["kv_layout"]) == ("2", "nccl", "paged")
    assert told_bytes(told["weights_bytes"]) == told_bytes(told["embedding_bytes"]) == weights
    adapter.close()


def test_it_is_ended_before_the_process_is(module: ModuleType, tmp_path: Path) -> None:
    adapter = loaded(module, tmp_path)
    adapter.prepare(2, 5, 5)
    adapter.close()
    assert TurboMind.made[0].closed
    adapter.close()
    assert adapter.engine == (None, [])


def test_the_direct_call_is_the_engines_own(module: ModuleType, tmp_path: Path) -> None:
    adapter = loaded(module, tmp_path)
    adapter.prepare(2, 5, 5)
    direct = image_module("lmdeploy", "direct")
    assert direct.generate(adapter, [[10], [20]], Decoding(max_new_tokens=2)) == [[11, 12], [21, 22]]
    assert direct.generate(adapter, [[10]], Decoding(max_new_tokens=9, eos_token_ids=(12,))) == [[11, 12]]
    assert all(asked.stream for asked in TurboMind.made[0].asked)
    adapter.close()


def test_scores_are_of_the_prompts_own_logits(module: ModuleType, tmp_path: Path) -> None:
    adapter = loaded(module, tmp_path)
    seen: list[Any] = []

    def log_probabilities(logits: Any, token_ids: Sequence[int]) -> list[float]:
        seen.append((logits, token_ids))
        return [-1.0]

    with mock.patch.object(module, "log_probabilities", log_probabilities):
        assert adapter.score([1, 2, 3]) == [-1.0]
    ((logits, ids),) = seen
    assert (len(logits), ids) == (3, [1, 2, 3]), "not of the token that the engine wrote behind it"
    (asked,) = TurboMind.made[0].asked
    assert (asked.config.output_logits, asked.config.max_new_tokens) == ("all", 1)
    adapter.close()


def test_the_kernel_of_four_bits_on_hopper_is_told() -> None:
    dispatch = image_module("lmdeploy", "dispatch")
    found = dispatch.choices((RECORDS / "sm90.records").read_bytes())
    assert [choice.rows for choice in found if choice.four_bits] == [1, 4, 16, 64, 256, 14080]
    assert dispatch.group_in_memory(found) == 32
    assert dispatch.facts(found, 64) == {
        "linear_kernel": "gmma_h64n16 of sm_90, 4-bit weights in groups of 32",
        "linear_kernel_tiles": "8x128x64; 16x128x64; 32x128x64",
    }


def test_the_kernel_of_four_bits_before_hopper_is_told() -> None:
    dispatch = image_module("lmdeploy", "dispatch")
    found = dispatch.choices((RECORDS / "sm80.records").read_bytes())
    assert dispatch.group_in_memory(found) == 128
    assert dispatch.facts(found, 4) == {
        "linear_kernel": "mma_h16816 of sm_80, 4-bit weights in groups of 128",
        "linear_kernel_tiles": "16x128x64, 4 splits",
    }


def test_sixteen_bits_are_multiplied_by_cublas() -> None:
    dispatch = image_module("lmdeploy", "dispatch")
    found = [choice for choice in dispatch.choices((RECORDS / "sm90.records").read_bytes()) if not choice.four_bits]
    assert dispatch.facts(found, 64) == {"linear_kernel": "cuBLAS, 16-bit weights"}
    assert dispatch.group_in_memory(found) is None


KINDS = (
    AttentionLayers(count=2, window=16, kv_heads=1, key_dim=32, value_dim=16),
    AttentionLayers(count=1, kv_heads=4, key_dim=64, value_dim=64),
)


@pytest.mark.parametrize(
    ("model", "gpus", "token_bytes"),
    [
        (MODEL, 1, KV_TOKEN_BYTES),
        (MODEL, 2, KV_TOKEN_BYTES),
        (MODEL, 4, 2 * KV_TOKEN_BYTES),  # each GPU keeps a head: two are kept twice
        (MODEL.model_copy(update={"decoder": Decoder(attention=KINDS)}), 1, (2 * 48 + 4 * 128) * 2),
    ],
)
def test_what_a_batch_needs_of_the_cache_follows_from_the_models_layers(
    module: ModuleType, tmp_path: Path, model: ModelInfo, gpus: int, token_bytes: int
) -> None:
    """Three rows of 65 tokens take two blocks of 64 each."""
    sys.modules["torch"].cuda.mem_get_info = lambda _device: (1 << 30, 1 << 30)
    adapter = loaded(module, tmp_path, gpus, model)
    adapter.prepare(3, 60, 5)
    assert adapter.memory()["used_bytes"] == 3 * 2 * 64 * token_bytes
    adapter.close()


def test_of_layers_that_are_not_known_nothing_is_counted(module: ModuleType, tmp_path: Path) -> None:
    adapter = loaded(module, tmp_path, model=MODEL.model_copy(update={"decoder": Decoder(problem="of a new kind")}))
    adapter.prepare(3, 60, 5)
    assert adapter.memory() == {"reserved_bytes": 500}
    adapter.close()


@pytest.mark.parametrize("damage", ["cut", "longer", "version", "empty"])
def test_a_file_that_is_not_understood_tells_nothing(damage: str) -> None:
    dispatch = image_module("lmdeploy", "dispatch")
    whole = (RECORDS / "sm90.records").read_bytes()
    content = {
        "cut": whole[:-1], "longer": whole + b"\0", "empty": b"",
        "version": whole[:8] + struct.pack("<I", 7) + whole[12:],
    }[damage]  # fmt: skip
    assert dispatch.choices(content) == []
    assert dispatch.facts([], 64) == {}


def quantised(folder: Path, packed_along: str, tied: bool) -> None:
    """One layer of 256 inputs and 64 outputs in groups of 128, a norm, embeddings and a head of 10 by 256."""
    inputs, outputs = 256, 64
    shape = (inputs // 8, outputs) if packed_along == "inputs" else (inputs, outputs // 8)
    tensors = {
        "a.qweight": numpy.zeros(shape, "int32"), "a.scales": numpy.zeros((inputs // 128, outputs), "float16"),
        "a.qzeros": numpy.zeros((inputs // 128, outputs // 8), "int32"), "norm.weight": numpy.zeros(256, "float32"),
        "model.embed_tokens.weight": numpy.zeros((10, 256), "float16"),
        "lm_head.weight": numpy.zeros((10, 256), "float16"),
    }  # fmt: skip
    if packed_along == "inputs":
        tensors["a.g_idx"] = numpy.zeros(inputs, "int32")
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": tied}), encoding="utf-8")


@pytest.mark.parametrize("packed_along", ["inputs", "outputs"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("group", "bits"), [(128, 4.25), (32, 5)])
def test_bytes_of_weights_by_how_they_are_kept(
    tmp_path: Path, packed_along: str, tied: bool, group: int, bits: float
) -> None:
    """GPTQ packs along the inputs, AWQ along the outputs; a tied head is kept a second time."""
    weights = image_module("lmdeploy", "weights")
    quantised(tmp_path, packed_along, tied)
    layer, norm, table = 256 * 64 * bits / 8, 256 * 2, 10 * 256 * 2
    found = weights.in_memory(tmp_path, group)
    assert found == {"weights_bytes": layer + norm + 2 * table, "embedding_bytes": table}
    assert weights.in_memory(tmp_path, None) is None, "no number is made up"


def test_multicast_is_off_where_it_is_split() -> None:
    manifest = Manifest.load(ROOT / "images" / "lmdeploy")
    assert manifest.environment_on(2)["TM_COMM_NVLS_ENABLE"] == "0"
    assert "TM_COMM_NVLS_ENABLE" not in manifest.environment_on(1)
