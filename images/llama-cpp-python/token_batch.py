"""A ``llama_batch`` that is filled by array operations."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp as lib
import numpy as np
import numpy.typing as npt


class TokenBatch:
    """A ``llama_batch`` over arrays of ours, so that a step is filled by array operations and not token by token."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, np.int32)
        self._position = np.zeros(capacity, np.int32)
        self._sequence = np.zeros(capacity, np.int32)
        self._output = np.zeros(capacity, np.int8)
        self._sequences_per_token = np.ones(capacity, np.int32)
        places = self._sequence.ctypes.data + np.arange(capacity, dtype=np.uint64) * self._sequence.itemsize
        self._sequence_pointers = places.astype(np.uint64)
        self._batch = lib.llama_batch(
            n_tokens=0,
            token=_pointer(self._token, lib.llama_token),
            embd=None,
            pos=_pointer(self._position, lib.llama_pos),
            n_seq_id=_pointer(self._sequences_per_token, ctypes.c_int32),
            seq_id=_pointer(self._sequence_pointers, ctypes.POINTER(lib.llama_seq_id)),
            logits=_pointer(self._output, ctypes.c_int8),
        )

    def of(self, tokens: Any, positions: Any, sequences: Any, outputs: Any) -> Any:
        """The batch of these tokens; ``outputs`` is 1 where logits are wanted. Scalars stand for all tokens."""
        n = len(tokens)
        self._token[:n] = tokens
        self._position[:n] = positions
        self._sequence[:n] = sequences
        self._output[:n] = outputs
        self._batch.n_tokens = n
        return self._batch


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
