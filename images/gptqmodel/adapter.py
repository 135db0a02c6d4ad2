"""GPTQModel: a GPTQ checkpoint under Transformers' ``generate``, with a kernel named explicitly."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch
from gptqmodel import BACKEND, GPTQModel
from transformers import GenerationConfig

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.errors import BadInput
from bench_core.contract.loading import require_all_modules
from bench_core.contract.outcome import Outcome
from bench_core.contract.rectangle import ArrivalStreamer, Rectangle, until_end
from bench_core.contract.stored_weights import tensor_bytes

# The kernel compiled when the image was built (see build_wheel.py); without it the engine compiles at first use.
_PREBUILT = {"GPTQ_MARLIN": "gptqmodel_marlin_fp16_ops.so"}

# The fast kernel for CPUs does not read a last group that is not full, which only toy models have. It multiplies in
# bfloat16, whatever the model's type (gptqmodel 7.6.0, torch_aten_kernel.py: transform_cpu and _fused_op_forward).
_WHOLE_GROUPS_ONLY = "GPTQ_TORCH_ATEN"

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed", "not enough memory")
_UNSUPPORTED = (
    "no kernel image is available",
    "found no nvidia driver",
    "no cuda gpus are available",
    "torch not compiled with cuda enabled",
    "driver version is insufficient",
    "requires compute capability",
    "marlin kernel requires",
    "not supported on rocm",
    "does not recognize this architecture",
)


class GPTQModelAdapter:
    """Options: ``kernel`` on a GPU and ``cpu_kernel``, names of the engine's ``BACKEND`` without ``GPTQ_``."""

    def __init__(self) -> None:
        self._model: Any = None
        self._device: Any = None
        self._asked = ""

    @property
    def engine(self) -> Any:
        """The loaded model."""
        return self._model

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads a GPTQ folder and re-packs its weights for the kernel; no hub, no remote code, no other kernel."""
        kernel = str(variant.options["kernel"] if device.kind == "cuda" else variant.options["cpu_kernel"])
        self._asked = f"GPTQ_{kernel.upper()}"
        if self._asked == _WHOLE_GROUPS_ONLY and not _has_whole_groups(artifact):
            self._asked = "GPTQ_TORCH"
        backend = getattr(BACKEND, self._asked, None)
        if backend is None:
            known = ", ".join(name[5:].lower() for name in BACKEND.__members__ if name.startswith("GPTQ_"))
            raise BadInput(f"variant {variant.name}: kernel {kernel!r} is unknown", known)
        torch.set_num_threads(device.threads)
        # On a GPU of Hopper's kind torch would take cuDNN's attention, which builds a plan for every new length of the
        # cache: tens of milliseconds at each step until every length has been seen.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self._device = torch.device("cuda:0" if device.kind == "cuda" else "cpu")
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
        # A checkpoint's own settings (sampling, penalties, end-of-sequence ids) must not reach a greedy measurement.
        self._model.generation_config = GenerationConfig()

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:  # noqa: ARG002
        """Frees what the last shape held: caches grow with each batch."""
        self._free()

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """One call of ``generate`` on a left-padded rectangle; rows are cut after their first end-of-sequence id."""
        rectangle = Rectangle.of(prompts, decoding.pad_token_id)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=decoding.max_new_tokens,
            # None, here and in the model's own configuration, is what makes generate ignore the end of sequence.
            eos_token_id=list(decoding.eos_token_ids) or None,
            pad_token_id=decoding.pad_token_id,
        )
        output = self._model.generate(
            input_ids=torch.tensor(rectangle.ids, device=self._device),
            attention_mask=torch.tensor(rectangle.mask, device=self._device),
            generation_config=config,
            streamer=ArrivalStreamer(on_tokens, len(prompts), decoding.eos_token_ids) if on_tokens.wanted else None,
        )
        rows: list[list[int]] = output[:, rectangle.width :].tolist()  # waits for the device
        return [Completion(until_end(row, decoding.eos_token_ids)) for row in rows]

    def describe(self) -> Mapping[str, str]:
        """The kernels that the quantised layers really run on, as class names with their number."""
        kinds = Counter(type(module).__name__ for module in self._model.modules() if hasattr(module, "qweight"))
        return {
            "kernel_asked": self._asked,
            "kernel": ", ".join(f"{name} {count}" for name, count in sorted(kinds.items())),
            "attention": str(self._model.config._attn_implementation),  # noqa: SLF001 - the only place that says it
            "cudnn_attention": "on" if torch.backends.cuda.cudnn_sdp_enabled() else "off",
            "dtype": str(self._model.dtype).removeprefix("torch."),
            **({"product_dtype": "bfloat16"} if self._asked == _WHOLE_GROUPS_ONLY else {}),
            "kv_layout": "rectangle",
            "embeddings": self._model.get_input_embeddings().weight.device.type,
        }

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first, softmax in float32."""
        with torch.inference_mode():
            ids = torch.tensor([list(token_ids)], device=self._device)
            logits = self._model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        return [-float(loss) for loss in losses.tolist()]

    def classify(self, error: BaseException) -> Outcome | None:
        """Out of memory by type or text; a device or model that the kernel cannot serve by text."""
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return Outcome.OOM_KV
        text = str(error).lower()
        if any(sign in text for sign in _OUT_OF_MEMORY):
            return Outcome.OOM_KV
        if any(sign in text for sign in _UNSUPPORTED):
            return Outcome.UNSUPPORTED
        return None

    def close(self) -> None:
        """Drops the model and gives the memory back to the device."""
        self._model = None
        self._free()

    def _free(self) -> None:
        gc.collect()
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def _has_whole_groups(artifact: Path) -> bool:
    config = json.loads((artifact / "config.json").read_text(encoding="utf-8"))
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
