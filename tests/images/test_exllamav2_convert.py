"""What the image of ExLlamaV2 asks of the engine's converter. A stand-in plays it: takes the options and reads the
measurement as release 0.3.2 does."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from image_module import image_module

from bench_core.contract.adapter import Conversion, Device
from bench_core.contract.errors import BadInput
from bench_core.contract.models.model import ModelInfo

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
# Grouped queries: 4 heads of 16, 2 of them with keys and values of their own.
MODEL = ModelInfo(
    name="m", folder="m", digest="d", synthetic=True, architecture="LlamaForCausalLM", dtype="float16",
    parameters=1000, vocab_size=320, context_length=2048, hidden_size=64, intermediate_size=160, layers=3,
    attention_heads=4, kv_heads=2, head_dim=16, tied_embeddings=False, bos_token_id=1, eos_token_ids=(2,),
)  # fmt: skip
SHAPES = {
    "q_proj": (64, 64), "k_proj": (64, 32), "v_proj": (64, 32), "o_proj": (64, 64),
    "gate_proj": (64, 160), "up_proj": (64, 160), "down_proj": (160, 64),
}  # fmt: skip


@dataclass(frozen=True)
class QParams:
    """Settings of one matrix, as the engine has them: bits of all its weights, and a form for JSON."""

    bits: int

    def total_bits(self, shape: tuple[int, int]) -> int:
        inputs, outputs = shape
        return inputs * outputs * self.bits + 32 * inputs

    def get_dict(self) -> dict[str, Any]:
        return {"group_size": {self.bits: 64}, "bits": [self.bits], "bits_prop": [1], "scale_bits": 4}


ATTENTION_CHOICES = [[QParams(bits)] * 4 for bits in (2, 4, 8)]
MLP_CHOICES = [[QParams(3), QParams(3), QParams(5)], [QParams(6)] * 3]


@pytest.fixture
def convert() -> ModuleType:
    names = ("exllamav2", "exllamav2.conversion", "exllamav2.conversion.qparams")
    modules: dict[str, Any] = {name: ModuleType(name) for name in names}
    modules[names[-1]].qparams_attn = ATTENTION_CHOICES
    modules[names[-1]].qparams_mlp = MLP_CHOICES
    with mock.patch.dict(sys.modules, modules):
        return image_module("exllamav2", "convert")


@dataclass
class Converter:
    """The engine's program.

    Attributes:
        asked: its arguments.
        measurement: what it was given in place of its own measurement.
    """

    code: int = 0
    leaves: bool = True
    asked: argparse.Namespace = field(default_factory=argparse.Namespace)
    measurement: dict[str, Any] | None = None

    def run(self, command: list[str], check: bool) -> Any:
        assert not check
        assert command[:3] == [sys.executable, "-m", "exllamav2.conversion.convert_exl2"]
        parser = argparse.ArgumentParser(exit_on_error=False)
        for option in ("-i", "-o", "-cf", "-b", "-m", "-l"):
            parser.add_argument(option)
        self.asked = parser.parse_args(command[3:])
        if self.asked.m:
            self.measurement = json.loads(Path(self.asked.m).read_text(encoding="utf-8"))
        Path(self.asked.o).mkdir()
        (Path(self.asked.o) / "hidden_states.safetensors").touch()
        if self.leaves:
            (Path(self.asked.cf) / "output.safetensors").touch()
        return SimpleNamespace(returncode=self.code)


def conversion(folder: Path, model: ModelInfo = MODEL, artifact: str = "exl2-4.0bpw", kind: Any = "cuda") -> Conversion:
    for name in ("hf", "target"):
        (folder / name).mkdir()
    (folder / "model.json").write_text(model.model_dump_json(), encoding="utf-8")
    return Conversion(artifact, folder / "hf", folder / "target", Device(kind))


def converted(convert: ModuleType, folder: Path, converter: Converter, model: ModelInfo = MODEL) -> Mapping[str, str]:
    with mock.patch("subprocess.run", converter.run):
        facts: Mapping[str, str] = convert.to_exl2(conversion(folder, model))
    return facts


@pytest.mark.parametrize("synthetic", [True, False])
def test_its_own_converter_writes_the_bits_of_the_name(convert: ModuleType, tmp_path: Path, synthetic: bool) -> None:
    converter = Converter()
    facts = converted(convert, tmp_path, converter, MODEL.model_copy(update={"synthetic": synthetic}))
    asked = converter.asked
    assert (asked.i, asked.cf) == (str(tmp_path / "hf"), str(tmp_path / "target"))
    assert asked.b == facts["bits_per_weight"] == "4.0"
    assert Path(asked.o).is_relative_to(tmp_path / "target"), "intermediate states lie beside the result"
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["output.safetensors"], "and are gone"
    assert (asked.l, converter.measurement is not None) == (("512", True) if synthetic else (None, False))
    assert ("weights are random" in facts["calibration"]) == synthetic


def test_random_weights_are_measured_alike_in_every_layer(convert: ModuleType, tmp_path: Path) -> None:
    """The converter looks each layer up by name, and takes bits, error and settings of each choice from there."""
    converter = Converter()
    converted(convert, tmp_path, converter)
    assert converter.measurement is not None
    measured = converter.measurement["measurement"]
    assert converter.measurement["last_module_idx"] == 2 * MODEL.layers
    assert sorted(measured) == sorted(
        f"model.layers.{layer}.{part}" for layer in range(MODEL.layers) for part in ("self_attn", "mlp")
    )
    for part, names, choices in (("self_attn", ATTENTION, ATTENTION_CHOICES), ("mlp", MLP, MLP_CHOICES)):
        options = measured[f"model.layers.0.{part}"]
        assert all(measured[f"model.layers.{layer}.{part}"] == options for layer in range(MODEL.layers))
        weights = sum(math.prod(SHAPES[name]) for name in names)
        assert len(options) == len(choices)
        for option, choice in zip(options, choices, strict=True):
            bits = sum(setting.total_bits(SHAPES[name]) for name, setting in zip(names, choice, strict=True))
            assert option["total_bits"] == bits
            assert 1 - option["accuracy"] == pytest.approx(2 ** (-bits / weights))
            assert [option[name]["bits"] for name in names] == [[setting.bits] for setting in choice]
        errors = [1 - option["accuracy"] for option in options]
        assert errors == sorted(errors, reverse=True), "more bits lose less"


@pytest.mark.parametrize("failing", [Converter(code=1), Converter(leaves=False)], ids=["its code", "nothing left"])
def test_a_conversion_that_failed_is_told(convert: ModuleType, tmp_path: Path, failing: Converter) -> None:
    with pytest.raises(RuntimeError, match=f"exllamav2's converter ended with code {failing.code}"):
        converted(convert, tmp_path, failing)


@pytest.mark.parametrize(
    ("artifact", "kind", "words"), [("exl2-fourbpw", "cuda", "tells no bits"), ("exl2-4.0bpw", "cpu", "on a GPU")]
)
def test_what_cannot_be_converted_is_refused(
    convert: ModuleType, tmp_path: Path, artifact: str, kind: str, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        convert.to_exl2(conversion(tmp_path, artifact=artifact, kind=kind))
