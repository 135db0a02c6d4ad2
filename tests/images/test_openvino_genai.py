"""What the image of OpenVINO GenAI asks of its engine and its exporter, with stand-ins for both; needs no engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from conftest import ROOT
from image_module import image_module
from step_sink import Sink

from bench_core.contract.adapter import Conversion, Decoding, Device, Variant
from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.records.outcome import Outcome

OPTIONS: Mapping[str, Any] = {"inference_precision": "auto", "kv_precision": "auto", "max_num_batched_tokens": 8}
MODEL = '<data element_type="u4" offset="0" size="30" shape="6,10"/>\n<data element_type="f16" shape="1" size="4"/>'


class Handle:
    """A request that has one token more with each step that it is part of."""

    def __init__(self, tokens: Sequence[int], begins: int) -> None:
        self.waiting: list[int] = []
        self._left, self._begins = list(tokens), begins

    def step(self, number: int) -> None:
        if number >= self._begins and self._left:
            self.waiting.append(self._left.pop(0))

    def can_read(self) -> bool:
        return bool(self.waiting)

    def read(self) -> dict[int, Any]:
        read, self.waiting = self.waiting, []
        return {0: SimpleNamespace(generated_ids=read, generated_log_probs=[1.0, -0.5, -0.25, -9.0])}

    def open(self) -> bool:
        return bool(self._left or self.waiting)


class Pipeline:
    made: list[Pipeline] = []

    def __init__(self, path: str, scheduler: Any, device: str, properties: Mapping[str, Any]) -> None:
        self.asked = (path, scheduler, device, dict(properties))
        self.handles: list[Handle] = []
        self.configs: list[Any] = []
        self.steps = 0
        self.made.append(self)

    def add_request(self, row: int, _ids: Any, config: Any) -> Handle:
        self.configs.append(config)
        # The second of two prompts is read one step later: a step has no room for both.
        handle = Handle([10 * row + k for k in range(config.max_new_tokens)], begins=row + 1)
        self.handles.append(handle)
        return handle

    def step(self) -> None:
        self.steps += 1
        for handle in self.handles:
            handle.step(self.steps)

    def has_non_finished_requests(self) -> bool:
        return any(handle.open() for handle in self.handles)

    def get_metrics(self) -> Any:
        usage = 50.0 if self.steps == 2 else 25.0
        return SimpleNamespace(kv_cache_size_in_bytes=1000, cache_usage=usage)


class Core:
    """A CPU that has bfloat16."""

    def get_property(self, _device: str, name: str) -> Any:
        if name == "DYNAMIC_QUANTIZATION_GROUP_SIZE":
            return 32
        own = {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "u8"}[name]
        return SimpleNamespace(get_type_name=lambda: own)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    engine: Any = ModuleType("openvino_genai")
    engine.ContinuousBatchingPipeline, engine.SchedulerConfig, engine.GenerationConfig = (
        Pipeline,
        SimpleNamespace,
        SimpleNamespace,
    )
    runtime: Any = ModuleType("openvino")
    runtime.Core, runtime.Tensor = Core, lambda array: array
    monkeypatch.setitem(sys.modules, "openvino_genai", engine)
    monkeypatch.setitem(sys.modules, "openvino", runtime)
    Pipeline.made = []
    return image_module("openvino-genai", "adapter")


def loaded(module: ModuleType, folder: Path, **options: Any) -> Any:
    (folder / module.MODEL_FILE).write_text(MODEL, encoding="utf-8")
    adapter = module.OpenVinoGenAiAdapter()
    adapter.load(folder, Variant("int4", "ov-int4", {**OPTIONS, **options}), Device("cpu", threads=3))
    return adapter


def test_prompts_that_it_has_seen_are_read_again(module: ModuleType, tmp_path: Path) -> None:
    """Without a scheduler the engine keeps a cache of prefixes: a repeated prompt had its first token in 7 ms."""
    loaded(module, tmp_path)
    (pipeline,) = Pipeline.made
    _, scheduler, device, properties = pipeline.asked
    given = {"INFERENCE_NUM_THREADS": 3, "KV_CACHE_PRECISION": "u8"}  # said, since a file may say otherwise
    assert (scheduler.enable_prefix_caching, device, properties) == (False, "CPU", given)
    assert scheduler.max_num_seqs == scheduler.max_num_batched_tokens == OPTIONS["max_num_batched_tokens"]


def test_nothing_is_sent_when_it_is_imported() -> None:
    """openvino-telemetry sends an event at ``import openvino`` unless ``CI`` is true, and so does the converter's."""
    folder = ROOT / "images" / "openvino-genai"
    assert Manifest.load(folder).environment["CI"] == "true"
    convert = (folder / "Dockerfile").read_text(encoding="utf-8").partition(" AS convert")[2]
    assert "ENV CI=true" in convert


def test_what_it_computes_in_is_told_where_the_engine_chooses(module: ModuleType, tmp_path: Path) -> None:
    told = loaded(module, tmp_path).describe()
    assert (told["dtype"], told["kv_dtype"], told["stored_bytes"]) == ("bfloat16", "uint8", "u4 30, f16 4")
    assert told["dynamic_quantization_group"] == "32"
    told = loaded(module, tmp_path, inference_precision="f32", kv_precision="f32").describe()
    assert (told["dtype"], told["kv_dtype"]) == ("float32", "float32")
    assert Pipeline.made[-1].asked[3]["INFERENCE_PRECISION_HINT"] == "f32"
    assert Pipeline.made[-1].asked[3]["KV_CACHE_PRECISION"] == "f32"


def test_rows_are_told_by_the_step_that_had_them(module: ModuleType, tmp_path: Path) -> None:
    adapter, sink = loaded(module, tmp_path), Sink()
    outputs = adapter.generate([[1, 2], [3]], Decoding(3), sink)
    assert [list(output.token_ids) for output in outputs] == [[0, 1, 2], [10, 11, 12]]
    assert sink.steps == [[0], [0, 1], [0, 1], [1]]
    assert adapter.memory() == {"reserved_bytes": 1000, "used_bytes": 500}, "the fullest step, not the last"


def test_a_forced_length_passes_the_end_of_sequence_and_a_natural_one_obeys_it(
    module: ModuleType, tmp_path: Path
) -> None:
    adapter = loaded(module, tmp_path)
    adapter.generate([[1]], Decoding(2), Sink())
    adapter.generate([[1]], Decoding(2, eos_token_ids=(7, 9)), Sink())
    forced, natural = Pipeline.made[0].configs
    assert (forced.ignore_eos, forced.stop_token_ids) == (True, set())
    assert (natural.ignore_eos, natural.stop_token_ids) == (False, {7, 9})


def test_scores_are_of_the_prompts_tokens_but_the_first(module: ModuleType, tmp_path: Path) -> None:
    adapter = loaded(module, tmp_path)
    assert list(adapter.score([5, 6, 7])) == [-0.5, -0.25]
    assert (Pipeline.made[0].configs[0].echo, Pipeline.made[0].configs[0].logprobs) == (True, 1)


def test_a_smaller_shape_gets_a_pool_of_its_own_and_a_larger_one_lets_it_grow(
    module: ModuleType, tmp_path: Path
) -> None:
    adapter = loaded(module, tmp_path)
    adapter.prepare(1, 10, 10)
    adapter.prepare(4, 10, 10)
    assert len(Pipeline.made) == 1
    adapter.prepare(1, 10, 10)
    assert len(Pipeline.made) == 2


def test_more_rows_than_a_step_has_tokens_are_refused(module: ModuleType, tmp_path: Path) -> None:
    adapter = loaded(module, tmp_path)
    with pytest.raises(module.TooManyRows) as refused:
        adapter.prepare(9, 1, 1)
    assert adapter.classify(refused.value) is Outcome.UNSUPPORTED
    assert adapter.classify(RuntimeError("std::bad_alloc")) is Outcome.OOM_KV
    assert adapter.classify(RuntimeError("something else")) is None


# The converter, with an exporter that does as optimum-intel 2.2.0: weights of 16 bits stay as they are, whatever is
# asked for; 32 bits become 16 where these are asked for.


@dataclass
class Checkpoint:
    """A model that was read, of ten weights."""

    dtype: str

    def eval(self) -> Checkpoint:
        return self


def write_model(folder: Path, kind: str, size: int) -> None:
    (folder / "openvino_model.xml").write_text(f'<data element_type="{kind}" offset="0" size="{size}"/>', "utf-8")


def export(model: Checkpoint, target: Path, *, ov_config: str, patch_16bit_model: bool, **_more: Any) -> None:
    assert patch_16bit_model == (model.dtype != "float32")
    kind = {"float16": "f16", "bfloat16": "bf16", "float32": {"fp32": "f32", "fp16": "f16"}[ov_config]}[model.dtype]
    write_model(target, kind, 40 if kind == "f32" else 20)


def stand_in(name: str, **members: Any) -> Any:
    made = ModuleType(name)
    vars(made).update(members)
    return made


@pytest.fixture
def convert(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """The converter's module, of a checkpoint whose weights are of the type named."""

    def of(dtype: str) -> ModuleType:
        def read_whole(_source: Path, dtype: str, attn_implementation: str, own: str = dtype) -> Checkpoint:
            assert attn_implementation == "sdpa"
            return Checkpoint(own if dtype == "auto" else dtype)

        def compress_weights(model: Path, mode: str, **_settings: Any) -> str:
            assert "element_type" in model.read_text(encoding="utf-8")
            return mode

        def save_model(model: str, path: Path, *, compress_to_fp16: bool) -> None:
            assert not compress_to_fp16
            write_model(path.parent, {"asym8": "u8", "asym4": "u4"}[model], 10)

        core = SimpleNamespace(read_model=lambda path: path)
        settings = mock.MagicMock()
        modes = SimpleNamespace(INT8_ASYM="asym8", INT4_ASYM="asym4")
        modules = {
            "adapter": module,
            "nncf": stand_in(
                "nncf", CompressWeightsMode=modes, compress_weights=compress_weights, set_log_level=settings
            ),
            "nncf.quantization": stand_in("nncf.quantization"),
            "nncf.quantization.advanced_parameters": settings,
            "openvino": stand_in("openvino", Core=lambda: core, save_model=save_model, get_version=lambda: "1-2"),
            "torch": stand_in("torch", float32="float32", set_num_threads=settings),
            "transformers": settings,
            "optimum": stand_in("optimum"),
            "optimum.exporters": stand_in("optimum.exporters"),
            "optimum.exporters.openvino": stand_in("optimum.exporters.openvino", export_from_model=export),
            "optimum.intel": stand_in("optimum.intel", OVConfig=lambda dtype: dtype),
            "images._torch.pretrained": stand_in(
                "images._torch.pretrained", read_whole=read_whole, attention_of=lambda _source: "sdpa"
            ),
            "images._torch.same_function": stand_in(
                "images._torch.same_function", Engine=settings, require_same_function=lambda *_: "the same"
            ),
        }
        for name, made in modules.items():
            monkeypatch.setitem(sys.modules, name, made)
        return image_module("openvino-genai", "convert")

    return of


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("artifact", "stored"),
    [("ov-fp32", {"f32 40"}), ("ov-fp16", {"f16 20", "bf16 20"}), ("ov-int8", {"u8 10"}), ("ov-int4", {"u4 10"})],
)
def test_an_artifact_stores_the_bits_of_its_name_whatever_the_checkpoint_has(
    convert: Callable[[str], ModuleType], tmp_path: Path, dtype: str, artifact: str, stored: set[str]
) -> None:
    for name in ("hf", "target"):
        (tmp_path / name).mkdir()
    facts = convert(dtype).to_openvino(Conversion(artifact, tmp_path / "hf", tmp_path / "target", Device("cpu")))
    assert facts["stored_bytes"] in stored


def test_the_bits_of_a_variant_are_those_that_its_artifact_is_called_after() -> None:
    variants = Manifest.load(ROOT / "images" / "openvino-genai").variants.values()
    assert {variant.artifact: variant.bits for variant in variants} == {
        "ov-int4": 4, "ov-int8": 8, "ov-fp16": 16, "ov-fp32": 32,
    }  # fmt: skip
