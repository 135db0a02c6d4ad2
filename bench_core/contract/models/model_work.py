"""Bytes and operations that follow from a model's layers: the cache of its keys and values, and its products.

Operations of a forward pass: 2 for each weight that multiplies; for each pair of a token and a position that it attends
to 2 x heads x (size of a key + size of a value) in each layer (Chowdhery et al., "PaLM", 2022, appendix B, forward
part). Nothing here is guessed: where a layer is of a kind that is not known, there is no figure.
"""

from __future__ import annotations

from bench_core.contract.models.decoder import AttentionLayers, Decoder
from bench_core.contract.models.model import ModelInfo
from bench_core.contract.models.steps import DecodeSteps, PromptReading

# Whose layers have always been alike and attend to everything, so that a record of before layers were told suffices.
_ALIKE = ("LlamaForCausalLM",)
# A mixture of experts stores far more weights than its dimensions as a dense decoder have.
_DENSE_UP_TO = 1.25
_NOT_TOLD = "this older record does not tell the model's layers, and this architecture has several kinds"


def embedding_parameters(model: ModelInfo) -> int:
    """The table of input embeddings."""
    return model.vocab_size * model.hidden_size


def is_dense(model: ModelInfo) -> bool:
    """Whether the stored weights are about those of a dense decoder of these dimensions (gated or plain MLP)."""
    attention = model.hidden_size * model.head_dim * 2 * (model.attention_heads + model.kv_heads)
    mlp = 3 * model.hidden_size * model.intermediate_size
    tables = embedding_parameters(model) * (1 if model.tied_embeddings else 2)
    return model.parameters <= _DENSE_UP_TO * (tables + model.layers * (attention + mlp))


def decoder_of(model: ModelInfo) -> Decoder:
    """A model's layers; of a record of before these were told those of an architecture that has only one kind."""
    if model.decoder is not None:
        return model.decoder
    if model.architecture not in _ALIKE or not is_dense(model):
        return Decoder(problem=_NOT_TOLD)
    table = embedding_parameters(model)
    return Decoder(
        attention=(
            AttentionLayers(
                count=model.layers, kv_heads=model.kv_heads, key_dim=model.head_dim, value_dim=model.head_dim
            ),
        ),
        table_parameters=0 if model.tied_embeddings else table,
        row_parameters=0 if model.tied_embeddings else model.hidden_size,
        head_parameters=table,
    )


def kv_bytes_per_token(model: ModelInfo, item_bytes: float, gpus: int = 1) -> float:
    """Keys and values of one position in all layers, were no window to end: layers x key-value heads x (size of a key +
    size of a value) x bytes of a number. Llama-2-7B in float16: 0.5 MiB. 0 where the layers are not known.

    Args:
        gpus: that heads are dealt out among; each has one at least, so that few heads are kept several times.
    """
    return sum(layers.numbers_on(gpus) for layers in decoder_of(model).attention) * item_bytes


def kv_step_bytes(model: ModelInfo, item_bytes: float, steps: DecodeSteps) -> float | None:
    """Keys and values that one decode step of all rows must read; ``None`` where that is not known.

    A layer with a window needs as many positions as lie in it. Of chunks only those are counted that no row has left
    yet: behind them a token's share depends on where its chunk began.
    """
    read = 0.0
    for layers in decoder_of(model).attention:
        attended = _attended(layers, steps)
        if attended is None:
            return None
        read += layers.numbers * attended
    return steps.rows * read * item_bytes


def kv_cache_bytes(model: ModelInfo, item_bytes: float, tokens: float, rows: float = 1) -> float:
    """Key-value cache of ``rows`` rows that have ``tokens`` positions together, each the same number of them."""
    return rows * decoder_of(model).kv_numbers(tokens / rows) * item_bytes


def multiplying_parameters(model: ModelInfo) -> float:
    """Weights that every token is multiplied with: all but the input embeddings, of which a token takes one row, and
    the experts that its routers do not choose. A tied table is also the output layer and counts."""
    decoder = decoder_of(model)
    return model.parameters - decoder.table_parameters - decoder.expert_parameters * decoder.untouched_experts(1)


def decode_flop(model: ModelInfo, steps: DecodeSteps) -> float | None:
    """Operations of one decode step of all rows."""
    attention = 0.0
    for layers in decoder_of(model).attention:
        attended = _attended(layers, steps)
        if attended is None or layers.latent:
            return None
        attention += _attention_flop(model, layers, steps.rows * attended)
    return 2.0 * multiplying_parameters(model) * steps.rows + attention


def prompt_flop(model: ModelInfo, reading: PromptReading) -> float | None:
    """Operations of reading one batch's prompts, the output layer at each row's last token only; ``None`` where a
    prompt is longer than a window."""
    decoder = decoder_of(model)
    attention = 0.0
    for layers in decoder.attention:
        longest = reading.longest_prompt_tokens
        if layers.latent or (layers.window is not None and (longest is None or longest > layers.window)):
            return None
        attention += _attention_flop(model, layers, reading.attended_pairs)
    body = multiplying_parameters(model) - decoder.head_parameters
    return 2.0 * (body * reading.prompt_tokens + decoder.head_parameters * reading.rows) + attention


def _attention_flop(model: ModelInfo, layers: AttentionLayers, pairs: float) -> float:
    return 2.0 * layers.count * model.attention_heads * (layers.key_dim + layers.value_dim) * pairs


def _attended(layers: AttentionLayers, steps: DecodeSteps) -> float | None:
    """Positions that one row of a step attends to in such a layer, mean over rows and steps."""
    if layers.window is None:
        return steps.context_tokens
    within = steps.within(layers.window)
    return None if layers.chunked and within != steps.context_tokens else within
