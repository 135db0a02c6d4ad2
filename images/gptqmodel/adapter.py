"""GPTQModel: a GPTQ or AWQ checkpoint under Transformers' ``generate``, with a kernel named explicitly."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch
from gptqmodel import BACKEND, GPTQModel

from bench_core.contract.adapter import Device, Variant
from bench_core.contract.errors import BadInput
from bench_core.contract.loading import require_all_modules
from bench_core.contract.models.stored_weights import tensor_bytes
from images._torch.adapter import NO_CUDA, NO_DEVICE, OUT_OF_HOST_MEMORY, OUT_OF_MEMORY, chosen_device
from images._torch.generate import GenerateAdapter, greedy

# The kernel compiled when the image was built (see build_wheel.py); without it the engine compiles at first use.
_MARLIN = "gptqmodel_marlin_fp16_ops.so"
_PREBUILT = {"GPTQ_MARLIN": _MARLIN, "AWQ_MARLIN": _MARLIN}

# The fast kernel for CPUs does not read a last group that is not full, which only toy models have. It multiplies in
# bfloat16, whatever the model's type (gptqmodel 7.6.0, torch_aten_kernel.py: transform_cpu and _fused_op_forward).
_WHOLE_GROUPS_ONLY = ("GPTQ_TORCH_ATEN", "AWQ_TORCH_ATEN")


class GPTQModelAdapter(GenerateAdapter):
    """Options: ``kernel`` on a GPU and ``cpu_kernel``, of the engine's ``BACKEND`` without ``GPTQ_`` or ``AWQ_``."""

    out_of_memory = (*OUT_OF_MEMORY, *OUT_OF_HOST_MEMORY)
    unsupported = (
        *NO_DEVICE,
        *NO_CUDA,
        "requires compute capability",
        "marlin kernel requires",
        "not supported on rocm",
        "does not recognize this architecture",
    )

    def __init__(self) -> None:
        super().__init__()
        self._asked = ""

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads a folder and re-packs its weights for the kernel; no hub, no remote code, no other kernel."""
        kernel = str(variant.options["kernel"] if device.kind == "cuda" else variant.options["cpu_kernel"])
        quantisation = _config(artifact).get("quantization_config", {})
        method = "AWQ_" if quantisation.get("quant_method") == "awq" else "GPTQ_"
        self._asked = f"{method}{kernel.upper()}"
        if self._asked in _WHOLE_GROUPS_ONLY and not _has_whole_groups(artifact):
            self._asked = f"{method}TORCH"
        backend = getattr(BACKEND, self._asked, None)
        if backend is None:
            known = ", ".join(
                name.removeprefix(method).lower() for name in BACKEND.__members__ if name.startswith(method)
            )
            raise BadInput(f"variant {variant.name}: kernel {kernel!r} is unknown", known)
        self._device = chosen_device(device)
        _load_prebuilt(self._asked)
        loaded = GPTQModel.load(
            str(artifact), device=str(self._device), backend=backend, dtype=torch.float16, trust_remote_code=False
        )
        self._model = loaded.model.eval()
        require_all_modules(
            self._model.state_dict(),
            [name for path in artifact.glob("*.safetensors") for name in tensor_bytes(path)],
            tied=("lm_head",) if self._model.config.tie_word_embeddings else (),
        )
        if getattr(self._model.config.get_text_config(decoder=True), "attn_logit_softcapping", None) is not None:
            # Under scaled-dot-product attention transformers leaves the cap of the scores out without a word.
            self._model.set_attn_implementation("eager")
        greedy(self._model)

    def describe(self) -> Mapping[str, str]:
        """The kernels that the quantised layers really run on, as class names with their number."""
        kinds = Counter(type(module).__name__ for module in self._model.modules() if hasattr(module, "qweight"))
        return {
            "kernel_asked": self._asked,
            "kernel": ", ".join(f"{name} {count}" for name, count in sorted(kinds.items())),
            "attention": str(self._model.config._attn_implementation),  # noqa: SLF001 - the only place that says it
            "cudnn_attention": "on" if torch.backends.cuda.cudnn_sdp_enabled() else "off",
            "dtype": str(self._model.dtype).removeprefix("torch."),
            **({"product_dtype": "bfloat16"} if self._asked in _WHOLE_GROUPS_ONLY else {}),
            "kv_layout": "rectangle",
            "embeddings": self._model.get_input_embeddings().weight.device.type,
        }


def _config(artifact: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((artifact / "config.json").read_text(encoding="utf-8"))
    return config


def _has_whole_groups(artifact: Path) -> bool:
    config = _config(artifact)
    group_size = int(config["quantization_config"]["group_size"])
    return all(int(config[width]) % group_size == 0 for width in ("hidden_size", "intermediate_size"))


def _load_prebuilt(kernel: str) -> None:
    """Registers the kernel's operators, which the engine takes as they are where it finds them registered."""
    library = _PREBUILT.get(kernel)
    if library is None:
        return
    files = distribution("gptqmodel").files or []
    path = next((file.locate() for file in files if file.name == library), None)
    if path is not None:
        torch.ops.load_library(str(path))
