"""What an engine must have found in a checkpoint: every weight of the model, in its shape.

Some engines fill what they do not find with random numbers and go on. Their adapters ask them what they found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# As many names fit into a line that a person reads.
_NAMED = 3


class MissingWeights(RuntimeError):
    """The engine has not found all weights of the model, or found some of another shape."""


def require_all_weights(said: Mapping[str, Any]) -> None:
    """Checks what Transformers' ``from_pretrained`` says with ``output_loading_info`` and ``ignore_mismatched_sizes``.

    Args:
        said: ``missing_keys``, names; ``mismatched_keys``, (name, stored shape, the model's shape).

    Raises:
        MissingWeights: names the first that is missing, else the first of another shape.
    """
    missing = sorted(str(name) for name in said.get("missing_keys", ()))
    if missing:
        raise MissingWeights(f"the checkpoint lacks {_listed(missing)}")
    mismatched = sorted(
        f"{name} has the shape {list(stored)}, the model's is {list(wanted)}"
        for name, stored, wanted in said.get("mismatched_keys", ())
    )
    if mismatched:
        raise MissingWeights(f"not of the shape that config.json says: {_listed(mismatched, 1)}")


def require_all_modules(model: Iterable[str], stored: Iterable[str], tied: Iterable[str] = ()) -> None:
    """Checks that every part of a model that holds tensors has some in the checkpoint.

    For engines that do not tell what they found, and that hold quantised layers under other names than they are stored.

    Args:
        model: names of the loaded model's tensors.
        stored: names of the checkpoint's tensors.
        tied: parts that share the tensors of others, and need not be stored.

    Raises:
        MissingWeights: names the first part that has none.
    """
    present = {name.rpartition(".")[0] for name in stored}
    lost = sorted({name.rpartition(".")[0] for name in model} - present - set(tied))
    if lost:
        raise MissingWeights(f"the checkpoint has no tensor of {_listed(lost)}")


def _listed(names: list[str], shown: int = _NAMED) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
