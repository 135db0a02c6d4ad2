"""What every record of the contract has in common: immutable, no unknown keys, plain JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bench_core.contract.errors import BadInput, shortened

Scalar = str | int | float | bool | None

R = TypeVar("R", bound="Record")

# Of a message that names a value of the file, which may be of any length.
_LONGEST = 500


class Record(BaseModel):
    """An immutable pydantic model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @classmethod
    def parse(cls: type[R], text: str | bytes, origin: str) -> R:
        """Reads JSON text; ``origin`` names the file in the error.

        Raises:
            BadInput: the text is not JSON or not this record.
        """
        try:
            return cls.model_validate_json(text)
        except (ValidationError, ValueError, RecursionError) as error:
            raise BadInput(f"{origin}: {describe(error)}", f"not a {cls.__name__}, or damaged") from error

    @classmethod
    def read(cls: type[R], path: Path) -> R:
        """Reads a JSON file.

        Raises:
            BadInput: the file is missing, unreadable, not JSON or not this record.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror or error}") from error
        return cls.parse(content, str(path))

    def to_json(self) -> str:
        """Indented JSON with a final newline, keys in the order of the model."""
        return self.model_dump_json(indent=2) + "\n"


def describe(error: Exception) -> str:
    """The first problem of a validation error as ``where: what``, in one line; values are shown shortened."""
    if not isinstance(error, ValidationError):
        return shortened(" ".join(str(error).split()), _LONGEST)
    first: Any = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    unknown = first["type"] == "extra_forbidden"
    what = "unknown key" if unknown else first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return shortened(" ".join((f"{where}: {what}{more}" if where else f"{what}{more}").split()), _LONGEST)
