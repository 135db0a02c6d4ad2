"""How ExLlamaV2 is told to spread layers over GPUs, with an engine that fills one GPU after the other."""

from __future__ import annotations

import pytest
from image_module import image_module

even_split = image_module("exllamav2", "gpu_split").even_split
GIB = 2**30


class Module:
    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self.gpu = -1

    def weight_footprint(self) -> int:
        return self._size_bytes


class ExLlamaV2Embedding(Module):
    """Stays on the host."""


class Model:
    """Fills the last GPU first, as release 0.3.2 does, and keeps ``beside_gib`` of each for itself."""

    def __init__(self, layers: int, layer_gib: float, head_gib: float, beside_gib: float) -> None:
        self._beside_gib = beside_gib
        layer = [Module(int(layer_gib * GIB)) for _ in range(layers)]
        self.modules = [ExLlamaV2Embedding(10 * GIB), *layer, Module(int(head_gib * GIB))]

    def set_device_map(self, allocation: list[float]) -> list[float]:
        left = [share - self._beside_gib for share in allocation]
        at = len(left) - 1
        for module in reversed(self.modules[1:]):
            size = module.weight_footprint() / GIB
            while left[at] < size:
                at -= 1
                assert at >= 0, "Insufficient space in device allocation"
            left[at] -= size
            module.gpu = at
        return left


@pytest.mark.parametrize("gpus", [2, 3, 4, 8])
@pytest.mark.parametrize(("layers", "layer_gib", "head_gib", "beside_gib"), [(32, 0.12, 0.25, 1.5), (5, 1.0, 0.1, 0.0)])
def test_every_gpu_has_about_as_many_bytes(
    gpus: int, layers: int, layer_gib: float, head_gib: float, beside_gib: float
) -> None:
    model = Model(layers, layer_gib, head_gib, beside_gib)
    model.set_device_map(even_split(model, gpus))
    held = [sum(m.weight_footprint() for m in model.modules[1:] if m.gpu == n) / GIB for n in range(gpus)]
    assert sum(held) == pytest.approx(layers * layer_gib + head_gib, rel=1e-6)
    assert max(held) < sum(held) / gpus + max(layer_gib, head_gib)
    assert all(held) or layers < 8 * gpus, "no GPU is left out"
    with pytest.raises(AssertionError, match="Insufficient space"):
        model.set_device_map([beside_gib + max(held) - 0.01] * gpus)
