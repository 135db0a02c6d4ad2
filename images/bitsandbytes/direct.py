"""Transformers' ``generate`` on bitsandbytes' layers as the documentation calls it, for parity."""

from images._torch.direct import generate

__all__ = ["generate"]
