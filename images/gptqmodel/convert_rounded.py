"""Round-to-nearest 4-bit weights in GPTQ's or AWQ's layout, tensor by tensor, so that a model of any size passes.

For models whose weights are random: there is nothing to calibrate, and only the shapes and the kernels count.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from convert_layout import EMBEDDINGS, HEAD, WEIGHTS, as_half, has_head, quantised_layer, shards

from bench_core.contract.adapter import Conversion

_BITS = 4
_PER_WORD = 32 // _BITS
_LEVELS = 2**_BITS - 1
_ZERO = 2 ** (_BITS - 1)  # symmetric: the level that stands for 0.0
# AWQ's kernels take the even outputs of a word first.
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass(frozen=True)
class _Spec:
    """One tensor of the file, known before it is made."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * int(self.dtype.itemsize)


@dataclass(frozen=True)
class Layout:
    """How a quantised layer is written.

    Attributes:
        specs: of a layer's name, its shape (outputs, inputs) and the size of a group: its tensors to be.
        tensors: of its weight and the size of a group: the same, made, in host memory.
    """

    specs: Callable[[str, tuple[int, ...], int], list[_Spec]]
    tensors: Callable[[torch.Tensor, int], list[torch.Tensor]]


def quantise_by_rounding(conversion: Conversion, group_size: int, layout: Layout) -> None:
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
        for spec in _specs(name, tuple(shard.get_slice(name).get_shape()), group_size, ties_head, layout)
    ]
    with (conversion.target / WEIGHTS).open("wb") as stream, torch.inference_mode():
        stream.write(_header(specs))
        made = (
            tensor
            for shard, names in shards(source)
            for name in names
            for tensor in _tensors(name, shard.get_tensor(name), group_size, ties_head, device, layout)
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


def quantise_asymmetric(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``qweight``, ``qzeros`` and ``scales`` of a weight (outputs, inputs) in AWQ's layout, one scale and one zero
    point for each group of inputs. Inputs are a multiple of ``group_size``, outputs of 8.

    Returns:
        ``qweight``, int32 (inputs, outputs / 8): eight outputs of one input in a word, the even ones in its lower half.
        ``qzeros``, int32 (groups, outputs / 8), in the same order. ``scales``, float16 (groups, outputs). A level
        q stands for (q - zero) x scale.
    """
    outputs = weight.shape[0]
    grouped = weight.float().view(outputs, -1, group_size)
    low, high = grouped.amin(dim=2, keepdim=True), grouped.amax(dim=2, keepdim=True)
    scales = ((high - low) / _LEVELS).to(torch.float16)
    scales[scales == 0] = 1.0
    zeros = (low / scales.float()).neg_().round_().clamp_(0, _LEVELS)
    levels = (grouped / scales.float()).round_().add_(zeros).clamp_(0, _LEVELS)
    return (
        _outputs_in_words(levels.to(torch.uint8).view(outputs, -1)),
        _outputs_in_words(zeros.to(torch.uint8).squeeze(2)),
        scales.squeeze(2).t().contiguous(),
    )


def _outputs_in_words(levels: torch.Tensor) -> torch.Tensor:
    """Levels (outputs, columns) in words (columns, outputs / 8)."""
    of_word = levels.t().contiguous().view(levels.shape[1], -1, _PER_WORD)[..., _AWQ_ORDER]
    pairs = of_word[..., 0::2] | (of_word[..., 1::2] << _BITS)
    return pairs.contiguous().view(torch.int32).squeeze(-1)  # little-endian: the first in the lowest bits


def _specs(name: str, shape: tuple[int, ...], group_size: int, ties_head: bool, layout: Layout) -> list[_Spec]:
    layer = quantised_layer(name)
    if layer is not None:
        return layout.specs(layer, shape, group_size)
    names = [name, HEAD] if ties_head and name == EMBEDDINGS else [name]
    return [_Spec(each, shape, torch.float16) for each in names]


def _tensors(
    name: str, tensor: torch.Tensor, group_size: int, ties_head: bool, device: torch.device, layout: Layout
) -> list[torch.Tensor]:
    """The tensors of ``_specs``, in its order, in host memory."""
    if quantised_layer(name) is not None:
        return layout.tensors(tensor.to(device), group_size)
    half = as_half(tensor)
    return [half, half] if ties_head and name == EMBEDDINGS else [half]


def _gptq_specs(layer: str, shape: tuple[int, ...], group_size: int) -> list[_Spec]:
    outputs, inputs = shape
    groups = -(-inputs // group_size)
    return [
        _Spec(f"{layer}.g_idx", (inputs,), torch.int32),
        _Spec(f"{layer}.qweight", (-(-inputs // _PER_WORD), outputs), torch.int32),
        _Spec(f"{layer}.qzeros", (groups, -(-outputs // _PER_WORD)), torch.int32),
        _Spec(f"{layer}.scales", (groups, outputs), torch.float16),
    ]


def _gptq_tensors(weight: torch.Tensor, group_size: int) -> list[torch.Tensor]:
    outputs, inputs = weight.shape
    words, scales = quantise(weight, group_size)
    # The first format stores each zero less one; seven in every place.
    zero_word = sum((_ZERO - 1) << (_BITS * place) for place in range(_PER_WORD))
    zeros = torch.full((scales.shape[0], -(-outputs // _PER_WORD)), zero_word, dtype=torch.int32)
    order = torch.arange(inputs, dtype=torch.int32) // group_size
    return [order, words.cpu(), zeros, scales.cpu()]


def _awq_specs(layer: str, shape: tuple[int, ...], group_size: int) -> list[_Spec]:
    outputs, inputs = shape
    return [
        _Spec(f"{layer}.qweight", (inputs, outputs // _PER_WORD), torch.int32),
        _Spec(f"{layer}.qzeros", (inputs // group_size, outputs // _PER_WORD), torch.int32),
        _Spec(f"{layer}.scales", (inputs // group_size, outputs), torch.float16),
    ]


def _awq_tensors(weight: torch.Tensor, group_size: int) -> list[torch.Tensor]:
    return [tensor.cpu() for tensor in quantise_asymmetric(weight, group_size)]


GPTQ = Layout(_gptq_specs, _gptq_tensors)
AWQ = Layout(_awq_specs, _awq_tensors)


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
