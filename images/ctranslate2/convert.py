"""Converts a Hugging Face folder to CTranslate2, weights stored as the artifact's name says (``ct2-<type>``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ctranslate2
import numpy
import torch
import transformers
from ctranslate2.converters import TransformersConverter

from bench_core.contract.adapter import Conversion
from bench_core.contract.errors import BadInput
from bench_core.contract.loading import require_all_weights
from images._torch.same_function import Engine, require_same_function

_PREFIX = "ct2-"
_TYPES = ("float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int8_bfloat16")


class _NamedIds:
    """Stands in for the model's tokenizer: every id has a name of its own.

    The engine takes tokens by name. Only ids cross the contract, and a real tokenizer may give one name to two ids or
    have fewer or more of them than the model has embeddings. Only what converters ask of a tokenizer is here.
    """

    chat_template = None
    special_tokens_map: Mapping[str, str] = {}

    def __init__(self, size: int, bos_token_id: int | None, eos_token_id: int | None) -> None:
        self._size = size
        # The engine insists on names for these three; generation names its own end of sequence.
        self.unk_token_id = 0
        self.unk_token = self.pad_token = _name(0)
        self.bos_token = _name(bos_token_id or 0)
        self.eos_token = _name(eos_token_id or 0)

    def get_vocab(self) -> dict[str, int]:
        return {_name(token_id): token_id for token_id in range(self._size)}

    def convert_ids_to_tokens(self, token_id: int) -> str:
        return _name(token_id)

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.get_vocab()[token]


class _OfflineConverter(TransformersConverter):  # type: ignore[misc]  # ctranslate2 ships no types
    """Reads safetensors of a local folder and gives tokens the names of their ids."""

    _named_ids: _NamedIds

    def load_model(self, model_class: Any, model_name_or_path: str, **kwargs: Any) -> Any:
        # What is not found is filled with random numbers: a converted model would no longer show it.
        model, said = super().load_model(
            model_class,
            model_name_or_path,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
        require_all_weights(said)
        config = model.config
        self._named_ids = _NamedIds(
            model.get_input_embeddings().num_embeddings, _first(config.bos_token_id), _first(config.eos_token_id)
        )
        return model

    def load_tokenizer(self, tokenizer_class: Any, model_name_or_path: str, **kwargs: Any) -> Any:  # noqa: ARG002
        return self._named_ids


def to_ct2(conversion: Conversion) -> Mapping[str, str]:
    """Writes ``model.bin``, ``config.json`` and ``vocabulary.json`` (the name of each id, in order).

    Raises:
        BadInput: the artifact's name does not tell a type of weights, or the engine computes another function than the
            model's configuration asks for.
    """
    quantization = conversion.artifact.removeprefix(_PREFIX)
    if not conversion.artifact.startswith(_PREFIX) or quantization not in _TYPES:
        raise BadInput(
            f"{conversion.artifact} is no artifact of CTranslate2", f"{_PREFIX} followed by {', '.join(_TYPES)}"
        )
    torch.set_num_threads(conversion.device.threads)
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(conversion.source, local_files_only=True)
    function = require_same_function(config, _ENGINE)
    _convert(conversion.source, conversion.target, quantization)
    return {"quantization": quantization, "vocabulary": "synthetic names of ids", "function": function}


def _to_float32(source: Path, target: Path) -> None:
    _convert(source, target, "float32")


def _scores(folder: Path, token_ids: list[int]) -> Any:
    generator = ctranslate2.Generator(str(folder), device="cpu", compute_type="float32")
    names = [_name(token_id) for token_id in token_ids]
    return numpy.array(generator.forward_batch([names], return_log_probs=True))[0]


# Both sides compute in float32: what they agree on differs by 1e-5.
_ENGINE = Engine(f"CTranslate2 {ctranslate2.__version__}", "ctranslate2", _to_float32, _scores, tolerance_nat=1e-3)


def _convert(source: Path, target: Path, quantization: str) -> None:
    converter = _OfflineConverter(str(source), low_cpu_mem_usage=True)
    # The target may exist and is empty then; force lets the engine replace it.
    converter.convert(str(target), quantization=quantization, force=True)


def _name(token_id: int) -> str:
    return f"<id_{token_id}>"


def _first(value: int | list[int] | None) -> int | None:
    if isinstance(value, list):
        return value[0] if value else None
    return value
