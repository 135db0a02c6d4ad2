"""An engine's options as ``image.yaml`` declares them: the one place for their types, defaults and limits.

A value comes as text (command line) or as YAML or JSON (suite, ``suite.json``, ``spec.json``). Its type is the
declaration's, whatever it looks like: ``007`` stays text where text is declared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from bench_core.contract.errors import BadInput, nearest
from bench_core.contract.records.record import LARGEST_FLOAT, Record, Scalar

Value = str | int | float | bool
OptionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")  # what fits into 64 bits
_LARGEST = 10**18
_LONGEST_TEXT = 4096
_KINDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}


class EngineOption(Record):
    """One option: what an adapter reads under its name from ``Variant.options``."""

    type: Literal["str", "int", "float", "bool"] = Field(description="of its value, wherever it is given")
    default: str | int | float | bool = Field(description="the value where neither the variant nor a person gives one")
    words: Annotated[str, StringConstraints(min_length=8, max_length=200)] = Field(
        description="what it does, in one line, with the unit"
    )
    choices: tuple[str, ...] = Field((), description="of text: the values that there are; any where empty")
    min: float | None = Field(None, description="of a number: the smallest value")
    max: float | None = Field(None, description="of a number: the largest value")
    devices: tuple[Literal["cuda", "cpu"], ...] = Field(
        (), description="where the engine reads it; on all devices of the image where empty"
    )

    @model_validator(mode="after")
    def _consistent(self) -> EngineOption:
        if self.choices and self.type != "str":
            raise ValueError("choices are for text")
        if (self.min is not None or self.max is not None) and self.type not in ("int", "float"):
            raise ValueError("min and max are for numbers")
        if not self.words.isprintable():
            raise ValueError("words are one printable line")
        try:
            self.value(self.default)
        except ValueError as error:
            raise ValueError(f"default: {error}") from error
        return self

    @property
    def kind(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        bounds = [f"at least {self.min:g}"] if self.min is not None else []
        bounds += [f"at most {self.max:g}"] if self.max is not None else []
        return " ".join([_KINDS[self.type], *([", ".join(bounds)] if bounds else [])])

    def value(self, given: Scalar) -> Value:
        """A value of a suite, a variant or a record, in the declared type.

        Raises:
            ValueError: it is not of that type, or beyond the limits; the text says what it must be.
        """
        refusal = ValueError(f"{given!r:.100} is not {self.kind}")
        found: Value
        if self.type == "bool":
            if not isinstance(given, bool):
                raise refusal
            return given
        if self.type == "str":
            if isinstance(given, str) and len(given) <= _LONGEST_TEXT and given.isprintable():
                if self.choices and given not in self.choices:
                    raise refusal
                return given
            raise ValueError(f"{refusal}{'' if isinstance(given, str) else ': in YAML write it in quotes'}")
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise refusal
        if self.type == "int":
            if not isinstance(given, int) or abs(given) >= _LARGEST:
                raise refusal
            found = given
        else:
            if not abs(given) <= LARGEST_FLOAT:  # not a number, infinite, or a whole number that no float holds
                raise refusal
            found = float(given)
        if (self.min is not None and found < self.min) or (self.max is not None and found > self.max):
            raise refusal
        return found

    def of_text(self, text: str) -> Value:
        """A value of a command line, in the declared type.

        Raises:
            ValueError: as :meth:`value`.
        """
        given: Scalar = text
        if self.type == "bool":
            given = {"true": True, "false": False}.get(text, text)
        elif self.type == "int" and _WHOLE.fullmatch(text):
            given = int(text)
        elif self.type == "float":
            try:
                given = float(text)
            except ValueError:
                given = text
        return self.value(given)


class Options:
    """All options of one image, on one device or on all of them."""

    def __init__(self, image: str, declared: Mapping[str, EngineOption], device: str | None = None) -> None:
        """``device``: only what the engine reads there counts; ``None``: everything that is declared."""
        self._image = image
        self._declared = declared
        self._device = device

    @property
    def defaults(self) -> dict[str, Value]:
        """Every option with its default, in the declared type."""
        return {name: option.value(option.default) for name, option in self._declared.items() if self._here(option)}

    def checked(self, given: Mapping[str, Scalar]) -> dict[str, Value]:
        """Values in their declared types.

        Raises:
            BadInput: an unknown name, a value of another type or beyond the limits, an option of another device.
        """
        return {name: self._checked(name, value) for name, value in given.items()}

    def read(self, name: str, text: str) -> Value:
        """One value of a command line.

        Raises:
            BadInput: as :meth:`checked`.
        """
        option = self._option(name)
        try:
            return option.of_text(text)
        except ValueError as error:
            raise self._refusal(name, error) from error

    def _checked(self, name: str, value: Scalar) -> Value:
        option = self._option(name)
        try:
            return option.value(value)
        except ValueError as error:
            raise self._refusal(name, error) from error

    def _refusal(self, name: str, error: ValueError) -> BadInput:
        return BadInput(f"option {self._image}.{name}: {error}", self._declared[name].words)

    def _here(self, option: EngineOption) -> bool:
        return self._device is None or not option.devices or self._device in option.devices

    def _option(self, name: str) -> EngineOption:
        option = self._declared.get(name)
        if option is None:
            known: Iterable[str] = [key for key, one in self._declared.items() if self._here(one)]
            hint = nearest(name, known) if known else f"{self._image} has no options"
            raise BadInput(f"image {self._image} has no option {name[:100]!r}", hint)
        if not self._here(option):
            raise BadInput(
                f"option {self._image}.{name} has no effect on {self._device}",
                f"the engine reads it on {', '.join(option.devices)}: leave it out",
            )
        return option
