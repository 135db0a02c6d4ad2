"""bitsandbytes through Hugging Face Transformers, weights quantised while they are read."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
)
from transformers.utils import logging as transformers_logging

from bench_core.contract.adapter import Completion, Decoding, Device, TokenSink, Variant
from bench_core.contract.loading import require_all_weights
from bench_core.contract.outcome import Outcome
from bench_core.contract.rectangle import ArrivalStreamer, Rectangle, until_end
from bench_core.contract.tensor_names import is_expert

# What an error's text says, in lower case, where its type says too little.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed", "not enough memory")
_UNSUPPORTED = (
    "no kernel image is available",
    "found no nvidia driver",
    "no cuda gpus are available",
    "torch not compiled with cuda enabled",
    "driver version is insufficient",
    "cublas_status_not_supported",
    "does not recognize this architecture",
    "unrecognized configuration class",
    "configured cuda binary not found",
    "must be divisible by block_n",
    "the installed version of bitsandbytes was compiled without gpu support",
)


class BitsAndBytesAdapter:
    """Options: ``quantization``, int8 or nf4."""

    def __init__(self) -> None:
        self._model: Any = None
        self._device: Any = None
        self._quantization = ""

    @property
    def engine(self) -> Any:
        """The loaded model."""
        return self._model

    def load(self, artifact: Path, variant: Variant, device: Device) -> None:
        """Reads safetensors and quantises every linear layer but the head, on the device; no hub, no remote code."""
        quantization = str(variant.options["quantization"])
        self._quantization = quantization
        torch.set_num_threads(device.threads)
        transformers_logging.disable_progress_bar()
        # On a GPU of Hopper's kind torch would take cuDNN's attention, which builds a plan for every new length of the
        # cache: tens of milliseconds at each step until every length has been seen.
        torch.backends.cuda.enable_cudnn_sdp(False)
        # On a CPU LLM.int8() warns at every product that it rounds its float32 input: thousands of lines a batch.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        self._device = torch.device("cuda:0" if device.kind == "cuda" else "cpu")
        dtype = torch.float16 if device.kind == "cuda" else torch.float32
        if quantization == "int8":
            config = BitsAndBytesConfig(load_in_8bit=True)
        else:
            config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
        # What is not found is filled with random numbers, and layers that are quantised take any shape: asked before,
        # without reading a tensor.
        _, said = AutoModelForCausalLM.from_pretrained(
            artifact,
            device_map="meta",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        require_all_weights(said)
        self._model = AutoModelForCausalLM.from_pretrained(
            artifact,
            dtype=dtype,
            quantization_config=config,
            attn_implementation=_attention(artifact),
            device_map={"": self._device},
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        ).eval()
        # A checkpoint's own settings (sampling, penalties, end-of-sequence ids) must not reach a greedy measurement.
        self._model.generation_config = GenerationConfig()

    def prepare(self, batch_size: int, max_prompt_tokens: int, max_new_tokens: int) -> None:  # noqa: ARG002
        """Frees what the last shape held; the cache grows with each batch."""
        self._free()

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, on_tokens: TokenSink
    ) -> Sequence[Completion]:
        """One call of ``generate``, padded on the left; rows are cut after their first end-of-sequence id."""
        rectangle = Rectangle.of(prompts, decoding.pad_token_id)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=decoding.max_new_tokens,
            # None, here and in the model's own configuration, is what makes generate ignore the end of sequence.
            eos_token_id=list(decoding.eos_token_ids) or None,
            pad_token_id=decoding.pad_token_id,
            disable_compile=True,
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

    def score(self, token_ids: Sequence[int]) -> Sequence[float]:
        """Log-probability of each token but the first, softmax in float32."""
        with torch.inference_mode():
            ids = torch.tensor([list(token_ids)], device=self._device)
            logits = self._model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        return [-float(loss) for loss in losses.tolist()]

    def classify(self, error: BaseException) -> Outcome | None:
        """Out of memory by type or text; a device or architecture that this build cannot serve by text."""
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return Outcome.OOM_KV
        text = str(error).lower()
        if any(sign in text for sign in _OUT_OF_MEMORY):
            return Outcome.OOM_KV
        if any(sign in text for sign in _UNSUPPORTED):
            return Outcome.UNSUPPORTED
        return None

    def close(self) -> None:
        """Drops the model and gives its memory back to the device."""
        self._model = None
        self._free()

    def _free(self) -> None:
        gc.collect()
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def _attention(artifact: Path) -> str:
    """PyTorch's scaled-dot-product attention, unless the model's class has none or caps its scores (Gemma 2): under
    that attention transformers 5.17 leaves the cap out without a word."""
    config = AutoConfig.from_pretrained(artifact, local_files_only=True, trust_remote_code=False)
    capped = getattr(config.get_text_config(decoder=True), "attn_logit_softcapping", None) is not None
    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return "eager" if capped or not getattr(known, "_supports_sdpa", True) else "sdpa"


def _stored_bytes(weight: Any) -> int:
    """Of one weight with the scales of its blocks or rows."""
    scales = [getattr(getattr(weight, "quant_state", None), "absmax", None), getattr(weight, "SCB", None)]
    return int(weight.nbytes) + sum(int(scale.nbytes) for scale in scales if scale is not None)
