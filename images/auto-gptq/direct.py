"""AutoGPTQ's ``generate`` as its documentation calls it, on a batch, for parity."""

from images._torch.direct import generate

__all__ = ["generate"]
