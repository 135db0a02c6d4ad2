"""What the adapter of ONNX Runtime GenAI asks of its engine, with one that does what it is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from image_module import image_module
from step_sink import Sink

from bench_core.contract.adapter import Decoding, Device, Variant
from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import Outcome

PAD, SIZE = 12, 16


class Config:
    def __init__(self, path: str) -> None:
        self.path, self.overlays = path, list[dict[str, Any]]()

    def overlay(self, text: str) -> None:
        self.overlays.append(json.loads(text))


class Params:
    def __init__(self, _model: Any) -> None:
        self.options: dict[str, Any] = {}

    def set_search_options(self, **options: Any) -> None:
        self.options.update(options)


class Generator:
    """Row r writes r, r + 1, r + 2, ..."""

    made: list[Generator] = []

    def __init__(self, _model: Any, params: Params) -> None:
        self.options, self.read, self.step = params.options, list[npt.NDArray[np.int32]](), -1
        self.made.append(self)

    def rewind_to(self, place: int) -> None:
        assert place == 0
        self.step = -1

    def append_tokens(self, ids: npt.NDArray[np.int32]) -> None:
        self.read.append(ids)

    def generate_next_token(self) -> None:
        self.step += 1

    def get_next_tokens(self) -> npt.NDArray[np.int32]:
        return np.arange(len(self.read[-1]), dtype=np.int32) + self.step

    def get_output(self, name: str) -> npt.NDArray[np.float32]:
        """Every id of the model's own is as likely as the others; those that were added are far likelier."""
        assert name == "logits"
        logits = np.zeros((1, self.read[-1].shape[1], SIZE), np.float32)
        logits[:, :, PAD:] = 50
        return logits


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    engine: Any = ModuleType("onnxruntime_genai")
    engine.Config, engine.Model, engine.GeneratorParams, engine.Generator = (
        Config,
        lambda config: config,
        Params,
        Generator,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", engine)
    Generator.made = []
    return image_module("onnxruntime-genai", "adapter")


def loaded(module: ModuleType, folder: Path, ends: list[int] | None = None) -> Any:
    settings = {
        "pad_token_id": PAD,
        "eos_token_id": list(range(PAD, SIZE)) if ends is None else ends,
        "vocab_size": SIZE,
    }
    (folder / "genai_config.json").write_text(json.dumps({"model": settings}), encoding="utf-8")
    adapter = module.OnnxRuntimeGenAiAdapter()
    adapter.load(folder, Variant("int4", "ort-int4"), Device("cpu", threads=3))
    return adapter


def test_prompts_are_padded_on_the_right_with_an_id_that_is_in_none(module: ModuleType, tmp_path: Path) -> None:
    adapter = loaded(module, tmp_path)
    adapter.prepare(2, 3, 4)
    adapter.generate([[5], [6, 7, 0]], Decoding(4), Sink())
    assert Generator.made[0].read[0].tolist() == [[5, PAD, PAD], [6, 7, 0]]


def test_no_row_ends_in_the_engine_before_the_whole_length(module: ModuleType, tmp_path: Path) -> None:
    adapter = loaded(module, tmp_path)
    adapter.prepare(2, 3, 4)
    options = Generator.made[0].options
    assert options == {"batch_size": 2, "max_length": 7, "min_length": 7, "do_sample": False}
    assert adapter.describe()["kv_positions"] == "14"


def test_a_row_ends_at_its_own_end_and_others_go_on(module: ModuleType, tmp_path: Path) -> None:
    adapter, sink = loaded(module, tmp_path), Sink()
    adapter.prepare(2, 1, 4)
    outputs = adapter.generate([[5], [6]], Decoding(4, eos_token_ids=(2,)), sink)
    assert [list(output.token_ids) for output in outputs] == [[0, 1, 2], [1, 2]]
    assert sink.steps == [[0, 1], [0, 1], [0]]


def test_each_batch_begins_the_buffers_anew(module: ModuleType, tmp_path: Path) -> None:
    adapter = loaded(module, tmp_path)
    adapter.prepare(1, 1, 3)
    first, second = (adapter.generate([[5]], Decoding(3), Sink()) for _ in range(2))
    assert list(first[0].token_ids) == list(second[0].token_ids) == [0, 1, 2]
    assert len(Generator.made) == 1


def test_added_ids_have_no_probability(module: ModuleType, tmp_path: Path) -> None:
    scores = loaded(module, tmp_path).score([1, 2, 3])
    assert scores == pytest.approx([-np.log(PAD)] * 2)


def test_it_runs_on_the_threads_of_the_device(module: ModuleType, tmp_path: Path) -> None:
    adapter = loaded(module, tmp_path)
    config, pad = adapter.engine
    assert pad == PAD
    options = {"intra_op_num_threads": 3, "inter_op_num_threads": 1}
    assert config.overlays == [{"model": {"decoder": {"session_options": options}}}]


@pytest.mark.parametrize("ends", [[2], [], [PAD]])
def test_an_artifact_that_ends_at_ids_of_the_models_own_is_refused(
    module: ModuleType, tmp_path: Path, ends: list[int]
) -> None:
    with pytest.raises(BadInput, match="of the model's own"):
        loaded(module, tmp_path, ends)


def test_failures_by_the_engines_words(module: ModuleType) -> None:
    adapter = module.OnnxRuntimeGenAiAdapter()
    assert adapter.classify(RuntimeError("Failed to allocate memory for requested buffer")) is Outcome.OOM_KV
    assert adapter.classify(RuntimeError("head_size shall be a multiple of 16. Got head_size % 16 == 8")) is (
        Outcome.UNSUPPORTED
    )
    assert adapter.classify(RuntimeError("something else")) is None
