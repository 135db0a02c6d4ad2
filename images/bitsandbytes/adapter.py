"""bitsandbytes through Hugging Face Transformers, weights quantised while they are read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from bench_core.contract.adapter import Device, Variant
from bench_core.contract.models.tensor_names import is_expert
from images._torch.adapter import NO_CUDA, NO_DEVICE, OUT_OF_HOST_MEMORY, OUT_OF_MEMORY, chosen_device
from images._torch.generate import GenerateAdapter, greedy
from images._torch.pretrained import attention_of, require_complete


class BitsAndBytesAdapter(GenerateAdapter):
    """Options: ``quantization``, int8 or nf4."""

    out_of_memory = (*OUT_OF_MEMORY, *OUT_OF_HOST_MEMORY)
    unsupported = (
        *NO_DEVICE,
        *NO_CUDA,
        "cublas_status_not_supported",
        "does not recognize this architecture",
        "unrecognized configuration class",
        "configured cuda binary not found",
        "must be divisible by block_n",
        "the installed version of bitsandbytes was compiled without gpu support",
    )

    def __init__(self) -> None:
        super().__init__()
        self._quantization = ""

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads safetensors and quantises every linear layer but the head, on the device; no hub, no remote code."""
        quantization = str(variant.options["quantization"])
        self._quantization = quantization
        transformers_logging.disable_progress_bar()
        # On a CPU LLM.int8() warns at every product that it rounds its float32 input: thousands of lines a batch.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        self._device = chosen_device(device)
        dtype = torch.float16 if device.kind == "cuda" else torch.float32
        if quantization == "int8":
            config = BitsAndBytesConfig(load_in_8bit=True)
        else:
            config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
        require_complete(artifact)
        self._model = AutoModelForCausalLM.from_pretrained(
            artifact,
            dtype=dtype,
            quantization_config=config,
            attn_implementation=attention_of(artifact),
            device_map={"": self._device},
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        ).eval()
        greedy(self._model)

    def describe(self) -> Mapping[str, str]:
        """Attention, quantised layers by type, and the dtype of everything else."""
        counts: dict[str, int] = {}
        for layer in self._model.modules():
            kind = type(layer)
            if kind.__module__.startswith(bitsandbytes.__name__):
                counts[kind.__name__] = counts.get(kind.__name__, 0) + 1
        return {
            "attention": str(self._model.config._attn_implementation),  # noqa: SLF001 - the only place that says it
            "cudnn_attention": "on" if torch.backends.cuda.cudnn_sdp_enabled() else "off",
            "quantization": self._quantization,
            "quantized_layers": ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none",
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "cache": "dynamic",
            "kv_layout": "rectangle",
            "embeddings": self._device.type,
            "weights_bytes": str(sum(_stored_bytes(weight) for weight in self._model.parameters())),
            "embedding_bytes": str(self._model.get_input_embeddings().weight.nbytes),
            "expert_bytes": str(
                sum(_stored_bytes(weight) for name, weight in self._model.named_parameters() if is_expert(name))
            ),
        }

    def _settings(self) -> Mapping[str, Any]:
        return {"disable_compile": True}


def _stored_bytes(weight: Any) -> int:
    """Of one weight with the scales of its blocks or rows."""
    scales = [getattr(getattr(weight, "quant_state", None), "absmax", None), getattr(weight, "SCB", None)]
    return int(weight.nbytes) + sum(int(scale.nbytes) for scale in scales if scale is not None)
