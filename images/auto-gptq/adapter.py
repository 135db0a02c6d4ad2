"""AutoGPTQ: a GPTQ checkpoint under Transformers' ``generate``, with a kernel named explicitly."""

from __future__ import annotations

import gc
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from auto_gptq import AutoGPTQForCausalLM
from checkpoint import Unsupported, checked_settings, folder_as_the_engine_reads_it
from transformers import GenerationConfig

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.loading import require_all_modules
from bench_core.contract.outcome import Outcome
from bench_core.contract.rectangle import ArrivalStreamer, Rectangle, until_end
from bench_core.contract.stored_weights import tensor_bytes

_GPU = "cuda:0"

# The engine's names of its compiled kernels for layers of 4 bits, and the switches that choose them.
_KERNELS = {
    "exllamav2": {"disable_exllama": True, "disable_exllamav2": False},
    "exllama": {"disable_exllama": False, "disable_exllamav2": True},
}

# What an error's text says, in lower case, where its type says too little.
_OUT_OF_MEMORY = ("out of memory", "cublas_status_alloc_failed")
_UNSUPPORTED = (
    "no kernel image is available",
    "found no nvidia driver",
    "no cuda gpus are available",
    "driver version is insufficient",
    "isn't supported yet",
)


class AutoGPTQAdapter:
    """Option: ``kernel``, one of the engine's kernels for layers of 4 bits (exllamav2, exllama)."""

    def __init__(self) -> None:
        self._model: Any = None

    @property
    def engine(self) -> Any:
        """The loaded model in the engine's own wrapper."""
        return self._model

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads a GPTQ folder and arranges its weights for the kernel; no hub, no remote code, no other kernel."""
        kernel = str(variant.options["kernel"])
        settings = checked_settings(artifact)
        if kernel == "exllama" and settings["quantization_config"].get("desc_act"):
            # The engine would want a buffer for all prompt tokens of a batch, made when the model is loaded.
            raise Unsupported("the first ExLlama kernel is not prepared here for reordered columns (desc_act)")
        torch.set_num_threads(device.threads)
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
        # A checkpoint's own settings (sampling, penalties, end-of-sequence ids) must not reach a greedy measurement.
        self._model.model.generation_config = GenerationConfig()

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
        # The engine's own entry: Transformers' generate in inference mode and under autocast.
        output = self._model.generate(
            input_ids=torch.tensor(rectangle.ids, device=_GPU),
            attention_mask=torch.tensor(rectangle.mask, device=_GPU),
            generation_config=config,
            streamer=ArrivalStreamer(on_tokens, len(prompts), decoding.eos_token_ids) if on_tokens.wanted else None,
        )
        rows: list[list[int]] = output[:, rectangle.width :].tolist()  # waits for the device
        return [Completion(until_end(row, decoding.eos_token_ids)) for row in rows]

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

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first, softmax in float32."""
        with torch.inference_mode():
            ids = torch.tensor([list(token_ids)], device=_GPU)
            logits = self._model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        return [-float(loss) for loss in losses.tolist()]

    def classify(self, error: BaseException) -> Outcome | None:
        """Out of memory by type or text; what the engine or this build cannot do by type or text."""
        if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
            return Outcome.OOM_KV
        text = str(error).lower()
        if any(sign in text for sign in _OUT_OF_MEMORY):
            return Outcome.OOM_KV
        if isinstance(error, Unsupported) or any(sign in text for sign in _UNSUPPORTED):
            return Outcome.UNSUPPORTED
        return None

    def close(self) -> None:
        """Drops the model with its scratch space and gives the memory back to the device."""
        self._model = None
        self._free()

    def _free(self) -> None:
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def _kernels(model: Any) -> Counter[str]:
    """How many quantised layers run on which kernel."""
    return Counter(str(module.QUANT_TYPE) for module in model.modules() if hasattr(module, "QUANT_TYPE"))


def _listed(kernels: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(kernels.items()))
