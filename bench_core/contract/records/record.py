"""What every record of the contract has in common: immutable, no unknown keys, plain JSON, every number bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreConfig, CoreSchema, SchemaSerializer, SchemaValidator

from bench_core.contract.errors import BadInput, shortened

Scalar = str | int | float | bool | None

R = TypeVar("R", bound="Record")
T = TypeVar("T")

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


# By name of a record or of a reader, its schema and the configuration of that, where they were made before this process
# began.
MADE_AHEAD: dict[str, Callable[[], tuple[CoreSchema, CoreConfig]]] = {}


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
    def model_rebuild(
        cls,
        *,
        force: bool = False,
        raise_errors: bool = True,
        _parent_namespace_depth: int = 2,
        _types_namespace: Any = None,
    ) -> bool | None:
        """As pydantic's, which calls it when a record is first used; takes a schema that was made ahead."""
        made = None if force or cls.__pydantic_complete__ else MADE_AHEAD.pop(name_of(cls), None)
        if made is None:
            return super().model_rebuild(
                force=force,
                raise_errors=raise_errors,
                _parent_namespace_depth=_parent_namespace_depth + 1,
                _types_namespace=_types_namespace,
            )
        schema, config = made()
        cls.__pydantic_core_schema__ = schema
        cls.__pydantic_validator__ = SchemaValidator(schema, config)
        cls.__pydantic_serializer__ = SchemaSerializer(schema, config)
        cls.__pydantic_complete__ = True
        return True

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


def name_of(record: type[Record]) -> str:
    """Of a record's class among all."""
    return f"{record.__module__}:{record.__qualname__}"


def records(below: type[Record] = Record) -> Iterator[type[Record]]:
    """All classes of records that have been imported."""
    for record in below.__subclasses__():
        yield record
        yield from records(record)


class Reader(Generic[T]):
    """Reads one of several records; made when it is first used.

    Args:
        kinds: their union, as pydantic's ``TypeAdapter`` takes it.
        name: of this reader among all.
    """

    def __init__(self, kinds: Any, name: str) -> None:
        self._kinds = kinds
        self.name = name
        self._validator: Any = None
        READERS.append(self)

    @property
    def validator(self) -> Any:
        """What reads."""
        if self._validator is None:
            made = MADE_AHEAD.pop(self.name, None)
            self._validator = TypeAdapter(self._kinds).validator if made is None else SchemaValidator(*made())
        return self._validator

    def validate_json(self, text: str | bytes) -> T:
        """Reads JSON text.

        Raises:
            ValidationError, ValueError, RecursionError: it is none of these records.
        """
        found: T = self.validator.validate_json(text)
        return found


READERS: list[Reader[Any]] = []


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
