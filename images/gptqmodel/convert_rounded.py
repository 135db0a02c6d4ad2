"""Round-to-nearest 4-bit weights in GPTQ's layout, tensor by tensor, so that a model of any size passes.

For models whose weights are random: there is nothing to calibrate, and only the shapes and the kernels count.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod

import torch
from convert_layout import EMBEDDINGS, HEAD, WEIGHTS, as_half, has_head, quantised_layer, shards

from bench_core.contract.adapter import Conversion

_BITS = 4
_PER_WORD = 32 // _BITS
_LEVELS = 2**_BITS - 1
_ZERO = 2 ** (_BITS - 1)  # symmetric: the level that stands for 0.0


@dataclass(frozen=True)
class _Spec:
    """One tensor of the file, known before it is made."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * int(self.dtype.itemsize)


def quantise_by_rounding(conversion: Conversion, group_size: int) -> None:
    """Writes the target's weights; the arithmetic runs on the conversion's device.

    Two passes over the source: shapes alone for the header, then the tensors.
    """
    torch.set_num_threads(conversion.device.threads)
    device = torch.device("cuda:0" if conversion.device.kind == "cuda" else "cpu")
    source = conversion.source
    ties_head = not has_head(source)
    specs = [
        spec
        for shard, names in shards(source)
        for name in names
        for spec in _specs(name, tuple(shard.get_slice(name).get_shape()), group_size, ties_head)
    ]
    with (conversion.target / WEIGHTS).open("wb") as stream, torch.inference_mode():
        stream.write(_header(specs))
        made = (
            tensor
            for shard, names in shards(source)
            for name in names
            for tensor in _tensors(name, shard.get_tensor(name), group_size, ties_head, device)
        )
        for spec, tensor in zip(specs, made, strict=True):
            if tensor.dtype != spec.dtype or tuple(tensor.shape) != spec.shape:
                raise ValueError(f"{spec.name}: made {tensor.dtype} {tuple(tensor.shape)}, planned {spec}")
            stream.write(tensor.contiguous().numpy().data)


def quantise(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``qweight`` and ``scales`` of a weight (outputs, inputs), symmetric, one scale for each group of inputs.

    Returns:
        ``qweight``, int32 (ceil(inputs / 8), outputs): eight inputs of one output in a word, the first in its lowest
        bits. ``scales``, float16 (groups, outputs). A level q stands for (q - 8) x scale.
    """
    outputs, inputs = weight.shape
    # Filled up with zeros to whole groups and whole words; one contiguous row for each output, which is what is fast.
    rows = torch.nn.functional.pad(weight.float(), (0, -inputs % group_size))
    grouped = rows.view(outputs, -1, group_size)
    scales = (grouped.abs().amax(dim=2, keepdim=True) * (2 / _LEVELS)).to(torch.float16)
    scales[scales == 0] = 1.0
    levels = (grouped / scales.float()).add_(_ZERO).round_().clamp_(0, _LEVELS).to(torch.uint8).view(outputs, -1)
    levels = levels[:, : inputs + -inputs % _PER_WORD]
    pairs = levels[:, 0::2] | (levels[:, 1::2] << _BITS)
    words = pairs.view(torch.int32)  # little-endian, so the first input is in the lowest bits
    return words.t().contiguous(), scales.squeeze(2).t().contiguous()


def _specs(name: str, shape: tuple[int, ...], group_size: int, ties_head: bool) -> list[_Spec]:
    layer = quantised_layer(name)
    if layer is None:
        names = [name, HEAD] if ties_head and name == EMBEDDINGS else [name]
        return [_Spec(each, shape, torch.float16) for each in names]
    outputs, inputs = shape
    groups = -(-inputs // group_size)
    return [
        _Spec(f"{layer}.g_idx", (inputs,), torch.int32),
        _Spec(f"{layer}.qweight", (-(-inputs // _PER_WORD), outputs), torch.int32),
        _Spec(f"{layer}.qzeros", (groups, -(-outputs // _PER_WORD)), torch.int32),
        _Spec(f"{layer}.scales", (groups, outputs), torch.float16),
    ]


def _tensors(
    name: str, tensor: torch.Tensor, group_size: int, ties_head: bool, device: torch.device
) -> list[torch.Tensor]:
    """The tensors of ``_specs``, in its order, in host memory."""
    if quantised_layer(name) is None:
        half = as_half(tensor)
        return [half, half] if ties_head and name == EMBEDDINGS else [half]
    outputs, inputs = tensor.shape
    words, scales = quantise(tensor.to(device), group_size)
    # The first format stores each zero less one; seven in every place.
    zero_word = sum((_ZERO - 1) << (_BITS * place) for place in range(_PER_WORD))
    zeros = torch.full((scales.shape[0], -(-outputs // _PER_WORD)), zero_word, dtype=torch.int32)
    order = torch.arange(inputs, dtype=torch.int32) // group_size
    return [order, words.cpu(), zeros, scales.cpu()]


def _header(specs: list[_Spec]) -> bytes:
    """The head of a safetensors file: its length, then JSON with each tensor's place, filled up to 8 bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for spec in specs:
        start, end = end, end + spec.size_bytes
        kind = "F16" if spec.dtype == torch.float16 else "I32"
        entries[spec.name] = {"dtype": kind, "shape": list(spec.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
