"""Transformers' ``generate`` on GPTQModel's layers as its documentation calls it, for parity."""

from images._torch.direct import generate

__all__ = ["generate"]
