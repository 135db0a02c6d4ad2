"""AutoGPTQ: a GPTQ checkpoint under Transformers' ``generate``, with a kernel named explicitly."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from auto_gptq import AutoGPTQForCausalLM
from checkpoint import checked_settings, folder_as_the_engine_reads_it

from bench_core.contract.adapter import Device, Variant
from bench_core.contract.loading import require_all_modules
from bench_core.contract.models.stored_weights import tensor_bytes
from images._torch.adapter import NO_DEVICE
from images._torch.generate import GenerateAdapter, greedy
from images._torch.unsupported import Unsupported

_GPU = "cuda:0"

# The engine's names of its compiled kernels for layers of 4 bits, and the switches that choose them.
_KERNELS = {
    "exllamav2": {"disable_exllama": True, "disable_exllamav2": False},
    "exllama": {"disable_exllama": False, "disable_exllamav2": True},
}


class AutoGPTQAdapter(GenerateAdapter):
    """Option: ``kernel``, one of the engine's kernels for layers of 4 bits (exllamav2, exllama)."""

    # Generation goes through the engine's own wrapper: Transformers' generate in inference mode and under autocast.
    unsupported = (*NO_DEVICE, "isn't supported yet")

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads a GPTQ folder and arranges its weights for the kernel; no hub, no remote code, no other kernel."""
        kernel = str(variant.options["kernel"])
        settings = checked_settings(artifact)
        if kernel == "exllama" and settings["quantization_config"].get("desc_act"):
            # The engine would want a buffer for all prompt tokens of a batch, made when the model is loaded.
            raise Unsupported("the first ExLlama kernel is not prepared here for reordered columns (desc_act)")
        torch.set_num_threads(device.threads)
        self._device = torch.device(_GPU)
        with tempfile.TemporaryDirectory() as folder:
            folder_as_the_engine_reads_it(artifact, settings, Path(folder))
            self._model = AutoGPTQForCausalLM.from_quantized(
                folder,
                device=_GPU,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                **_KERNELS[kernel],
            )
        require_all_modules(
            self._model.model.state_dict(),
            [name for path in artifact.glob("*.safetensors") for name in tensor_bytes(path)],
            tied=("lm_head",) if settings.get("tie_word_embeddings") else (),
        )
        used = _kernels(self._model)
        if set(used) != {kernel}:
            raise Unsupported(f"asked for the kernel {kernel}, the engine took {_listed(used) or 'none'}")
        greedy(self._model.model)

    def describe(self) -> Mapping[str, str]:
        """The kernel that the quantised layers run on with their number, attention, dtype and size of groups."""
        return {
            "kernel": _listed(_kernels(self._model)),
            "attention": str(self._model.config._attn_implementation),  # noqa: SLF001 - the only place that says it
            "dtype": str(self._model.model.dtype).removeprefix("torch."),
            "group_size": str(self._model.quantize_config.group_size),
            "kv_layout": "rectangle",
            "embeddings": self._model.model.get_input_embeddings().weight.device.type,
        }


def _kernels(model: Any) -> Counter[str]:
    """How many quantised layers run on which kernel."""
    return Counter(str(module.QUANT_TYPE) for module in model.modules() if hasattr(module, "QUANT_TYPE"))


def _listed(kernels: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(kernels.items()))
