"""What a folder's GPTQ tensors are: bits, size of groups, order of groups, zero points; whatever its labels say.

Layout. A layer ``x`` of AutoGPTQ's checkpoints has ``x.qweight`` (int32, input width x bits / 32 by output width),
``x.qzeros`` (int32, groups by output width x bits / 32), ``x.scales`` (groups by output width) and, but for some of no
act-order, ``x.g_idx`` (int32, for each input the group that it belongs to). Zero points are stored one too low in the
format ``gptq``, and as they are in ``gptq_v2``.
"""

from __future__ import annotations

import array
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_core.contract.errors import BadInput
from bench_core.contract.models.stored_weights import safetensors_header

_PART = ".qweight"
_MOST_BYTES = 1 << 28  # of one layer's orders or zero points; a layer of 65536 x 65536 has 1 MiB of the latter a group
_HINT = "the file is damaged or was not copied whole: fetch it again"


@dataclass(frozen=True)
class GptqForm:
    """Of all quantised layers together.

    Attributes:
        bits: of a weight; several where layers differ.
        group_sizes: inputs that share a scale; several where layers differ.
        act_order: whether any layer's groups are not in the order of its inputs.
        zeros: the one zero point of all groups as it is stored; ``None`` where they differ (asymmetric).
    """

    bits: tuple[int, ...]
    group_sizes: tuple[int, ...]
    act_order: bool
    zeros: int | None

    @property
    def words(self) -> str:
        """In a few words."""
        return (
            f"{_listed(self.bits)} bits, groups of {_listed(self.group_sizes)}, "
            f"{'act-order' if self.act_order else 'no act-order'}, "
            f"{'symmetric' if self.is_symmetric else 'asymmetric'}"
        )

    @property
    def is_symmetric(self) -> bool:
        """Whether one zero point in the middle of the range serves all, in either format."""
        return len(self.bits) == 1 and self.zeros in (self._middle - 1, self._middle)

    @property
    def format(self) -> str | None:
        """The checkpoint format that symmetric zero points show; ``None`` where they show none."""
        if not self.is_symmetric:
            return None
        return "gptq_v2" if self.zeros == self._middle else "gptq"

    @property
    def _middle(self) -> int:
        return int(1 << (self.bits[0] - 1))


def gptq_form(folder: Path, names: Iterable[str]) -> GptqForm | None:
    """Reads headers, orders and zero points of a folder's safetensors files; ``None`` without quantised layers.

    Raises:
        BadInput: tensors of a layer do not fit to each other, or a file is damaged.
    """
    places: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for name in names:
        path = folder / name
        try:
            header, begin = safetensors_header(path)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInput(f"{path}: not a safetensors file: {error}", _HINT) from error
        places |= {tensor: (path, begin, entry) for tensor, entry in header.items()}
    layers = sorted(name.removesuffix(_PART) for name in places if name.endswith(_PART))
    found = [_Layer.of(layer, places) for layer in layers]
    if not found:
        return None
    zeros = {layer.zeros for layer in found}
    return GptqForm(
        bits=tuple(sorted({layer.bits for layer in found})),
        group_sizes=tuple(sorted({layer.group_size for layer in found})),
        act_order=any(layer.act_order for layer in found),
        zeros=zeros.pop() if len(zeros) == 1 else None,
    )


@dataclass(frozen=True)
class _Layer:
    bits: int
    group_size: int
    act_order: bool
    zeros: int | None

    @classmethod
    def of(cls, layer: str, places: Mapping[str, tuple[Path, int, dict[str, Any]]]) -> _Layer:
        path = places[layer + _PART][0]
        try:
            weights, groups = _shape(places, layer + _PART), _shape(places, f"{layer}.scales")
            zeros = _shape(places, f"{layer}.qzeros")
            outputs = weights[1]
            bits, rest = divmod(zeros[1] * 32, outputs)
            if rest or bits not in (2, 3, 4, 8) or groups[1] != outputs or zeros[0] != groups[0]:
                raise ValueError(f"qweight {weights}, qzeros {zeros} and scales {groups} do not fit to each other")
            inputs = weights[0] * 32 // bits
            size = -(-inputs // groups[0])
            order = _words(places, f"{layer}.g_idx") if f"{layer}.g_idx" in places else None
            if order is not None and (len(order) != inputs or not all(0 <= group < groups[0] for group in order)):
                raise ValueError(f"g_idx does not give each of {inputs} inputs one of {groups[0]} groups")
            in_order = order is None or all(group == at // size for at, group in enumerate(order))
            return cls(bits, size, not in_order, _one_zero(_words(places, f"{layer}.qzeros"), bits))
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            what = f"has no tensor {error}" if isinstance(error, KeyError) else str(error)
            raise BadInput(f"{path}: the quantised layer {layer[:120]} {what[:200]}", _HINT) from error


def _shape(places: Mapping[str, tuple[Path, int, dict[str, Any]]], name: str) -> tuple[int, int]:
    shape = places[name][2]["shape"]
    if len(shape) != 2 or not all(type(length) is int and length > 0 for length in shape):
        raise ValueError(f"has a tensor {name.rpartition('.')[2]} of shape {shape}")
    return shape[0], shape[1]


def _words(places: Mapping[str, tuple[Path, int, dict[str, Any]]], name: str) -> array.array[int]:
    """A tensor of 32-bit integers."""
    path, data, entry = places[name]
    first, last = entry["data_offsets"]
    if entry["dtype"] != "I32" or not 0 < last - first <= _MOST_BYTES or (last - first) % 4:
        raise ValueError(f"has a {name.rpartition('.')[2]} of {entry['dtype']} and {last - first} bytes")
    with path.open("rb") as stream:
        stream.seek(data + first)
        content = stream.read(last - first)
    if len(content) != last - first:
        raise ValueError("ends before its tensors do")
    found = array.array("i", content)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def _one_zero(words: Iterable[int], bits: int) -> int | None:
    """The zero point that all packed words hold, if it is one."""
    values = {word & 0xFFFFFFFF for word in set(words)}
    if len(values) != 1:
        # Of 3 bits a value may cross two words; three words then hold 32 of them.
        return _three_bits(values, bits)
    (word,) = values
    if bits == 3:
        return None if word not in (0, 0xFFFFFFFF) else word & 7
    mask = (1 << bits) - 1
    found = {word >> at & mask for at in range(0, 32, bits)}
    return found.pop() if len(found) == 1 else None


def _three_bits(values: set[int], bits: int) -> int | None:
    if bits != 3 or len(values) > 3:
        return None
    for zero in range(1, 7):
        whole = sum(zero << 3 * at for at in range(32))
        if values == {whole >> 32 * k & 0xFFFFFFFF for k in range(3)}:
            return zero
    return None


def _listed(numbers: Iterable[int]) -> str:
    return " and ".join(map(str, numbers))


def contradictions(form: GptqForm, settings: Mapping[str, Any]) -> Iterator[str]:
    """Where ``quantization_config`` says something else than the tensors; engines go by the former."""
    said = settings.get("bits")
    if said is not None and (form.bits != (said,)):
        yield f"its weights have {_listed(form.bits)} bits, and its config.json says {json.dumps(said)[:40]}"
    said = settings.get("group_size")
    if type(said) is int and said > 0 and form.group_sizes != (said,):
        yield f"its groups are of {_listed(form.group_sizes)}, and its config.json says {said}"
    if settings.get("desc_act") is False and form.act_order:
        yield "its groups are in another order than its inputs (act-order), and its config.json says desc_act: false"
    if settings.get("sym") is True and not form.is_symmetric:
        yield "its zero points are not those of symmetric weights, and its config.json says sym: true"
    told = settings.get("checkpoint_format")
    if told in ("gptq", "gptq_v2") and form.format not in (None, told):
        yield f"its zero points are those of the format {form.format}, and its config.json says {told}"
