"""What every record of the contract has in common: immutable, no unknown keys, plain JSON, every number bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from bench_core.contract.errors import BadInput, shortened

Scalar = str | int | float | bool | None

R = TypeVar("R", bound="Record")

# Of a message that names a value of the file, which may be of any length.
_LONGEST = 500


# What any number of a record may be, unless its field says less. A whole number has 63 bits and a sign, as digests,
# files and other languages hold it; a fraction leaves room to square it and to sum the squares.
SMALLEST_INT, LARGEST_INT = -(2**63), 2**63 - 1
LARGEST_FLOAT = 1e30
_BOUNDS = {"int": (SMALLEST_INT, LARGEST_INT), "float": (-LARGEST_FLOAT, LARGEST_FLOAT)}


def _bound(schema: Any, owner: type[Record]) -> None:
    """Of the owner's numbers without a bound of their own; those of a nested record have been seen to by itself."""
    if isinstance(schema, dict):
        nested = schema.get("cls")
        if nested is not owner and isinstance(nested, type) and issubclass(nested, Record):
            return
        kind = schema.get("type")  # of a field, where a record has one of that name
        if isinstance(kind, str) and kind in _BOUNDS:
            bounds = _BOUNDS[kind]
            if not schema.keys() & {"ge", "gt"}:
                schema["ge"] = bounds[0]
            if not schema.keys() & {"le", "lt"}:
                schema["le"] = bounds[1]
        for part in schema.values():
            if isinstance(part, dict | list | tuple):
                _bound(part, owner)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _bound(part, owner)


class Misplaced(ValueError):
    """What a check over a whole record finds wrong at one of its keys."""

    def __init__(self, where: tuple[str | int, ...], what: str) -> None:
        super().__init__(what)
        self.where = where


class Record(BaseModel):
    """An immutable pydantic model that refuses keys it does not know, and numbers beyond the bounds above."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False, defer_build=True
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Bounds every number of every field, however deep it stands in the field's type."""
        schema = handler(source)
        _bound(schema, cls)
        return schema

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
    where = ".".join(str(part) for part in place_of(error))
    unknown = first["type"] == "extra_forbidden"
    what = "unknown key" if unknown else first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return shortened(" ".join((f"{where}: {what}{more}" if where else f"{what}{more}").split()), _LONGEST)


def place_of(error: ValidationError) -> tuple[str | int, ...]:
    """The key path of a validation error's first problem."""
    first: Any = error.errors(include_url=False)[0]
    raised = first.get("ctx", {}).get("error")
    return (*first["loc"], *(raised.where if isinstance(raised, Misplaced) else ()))
