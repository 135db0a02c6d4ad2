"""The server of ``transformers serve --continuous-batching``, made of its own parts, with what its command line lacks.

Its ``/v1/completions`` takes token ids beside text, its prefix cache can be off, its continuous batching is warmed up
before it answers (as ``generate_batch`` does), and on a CPU its key-value cache has the size of what is asked for: it
would take nine tenths of the machine's memory. Handler, scheduler, attention and event stream are the engine's.

Where ids come in, numbers go out: the word of token 7 is "7". The engine's stream ends with an error at tokens that
make no text together, which weights without a meaning write all the time, and tells nothing of a token in the middle of
a character.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
import uvicorn
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import GenerationState
from transformers.utils import logging

_CPU_BATCH_TOKENS = 1024  # in one step; a GPU's follows from its memory


class _Numbers:
    """A tokenizer whose texts are lists of token ids, written as JSON, and whose words are numbers."""

    def __init__(self, size: int) -> None:
        words = {str(number): number for number in range(size)}
        self._tokenizer = Tokenizer(WordLevel(words))  # where the engine's streamer looks for it

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        return {"input_ids": json.loads(text)}


class IdsHandler(CompletionHandler):  # type: ignore[misc]
    """Takes ``prompt`` as the engine's own handler does, or as a list of token ids."""

    _numbers: _Numbers | None = None

    async def handle_request(self, body: dict[str, Any], request_id: str) -> Any:
        """Answers ``POST /v1/completions``."""
        if isinstance(body.get("prompt"), list):
            body = {**body, "prompt": json.dumps(body["prompt"])}
        return await super().handle_request(body, request_id)

    def _resolve_model(self, body: dict[str, Any]) -> tuple[str, Any, Any]:
        name, model, processor = super()._resolve_model(body)
        if not body["prompt"].startswith("["):
            return name, model, processor
        if self._numbers is None:
            self._numbers = _Numbers(model.config.get_text_config().vocab_size)
        return name, model, self._numbers


def main() -> None:
    """Loads the model, then serves until a signal ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--slots", type=int, required=True, help="requests at once, for a CPU's cache")
    parser.add_argument("--context-tokens", type=int, required=True, help="of one request, for a CPU's cache")
    parser.add_argument("--prefix-cache", action="store_true")
    asked = parser.parse_args()
    logging.set_verbosity_error()  # a line a request otherwise
    config = ContinuousBatchingConfig(allow_block_sharing=asked.prefix_cache)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        config.num_blocks = asked.slots * -(-asked.context_tokens // config.block_size)
        config.safety_margin = 0.0  # these are all there will be: of a share kept back, the last requests would wait
        config.max_batch_tokens = _CPU_BATCH_TOKENS
    models = ModelManager(device=device, dtype=asked.dtype, force_model=asked.artifact)
    model, _ = models.load_model_and_processor(models.process_model_name(asked.artifact))
    # What the engine leaves on a model for its next manager: memory and CUDA graphs are there before /health answers.
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1, use_cache=False)
    batching = model.init_continuous_batching(generation_config=greedy, continuous_batching_config=config)
    batching.warmup()
    model._cached_continuous_batching_manager = batching  # noqa: SLF001 - `persistent_manager` of generate_batch
    state = GenerationState(continuous_batching=True, cb_config=config)
    completion = IdsHandler(model_manager=models, generation_state=state)
    app = build_server(
        models, None, completion_handler=completion, response_handler=None, transcription_handler=None,
        generation_state=state,
    )  # fmt: skip
    uvicorn.run(app, host=asked.host, port=asked.port, log_level="warning", access_log=False)
    state.shutdown()  # the thread that generates would keep the process


if __name__ == "__main__":
    main()
