"""An option's value has the type that is declared, whatever it looks like, on every way that it takes."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from pydantic import ValidationError

from bench_core.contract.asked.options import EngineOption, Options
from bench_core.contract.errors import BadInput
from bench_core.contract.records.record import Scalar

TEXT = EngineOption(type="str", default="", words="some text or other")
WHOLE = EngineOption(type="int", default=4, words="a count of things", min=1, max=1000)
NUMBER = EngineOption(type="float", default=0.5, words="a share of something", min=0)
FLAG = EngineOption(type="bool", default=False, words="whether it is done")
CHOICE = EngineOption(type="str", default="f16", words="a type of numbers", choices=("f16", "f32"))


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        (TEXT, "007", "007"), (TEXT, "1e3", "1e3"), (TEXT, "null", "null"), (TEXT, "true", "true"), (TEXT, "", ""),
        (TEXT, "a=b", "a=b"), (TEXT, "None", "None"),
        (WHOLE, "007", 7), (WHOLE, "+7", 7), (NUMBER, "1e3", 1000.0), (NUMBER, "7", 7.0), (NUMBER, "0", 0.0),
        (FLAG, "true", True), (FLAG, "false", False), (CHOICE, "f32", "f32"),
    ],
)  # fmt: skip
def test_text_is_read_as_declared(option: EngineOption, text: str, value: object) -> None:
    found = option.of_text(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (WHOLE, "1e3"), (WHOLE, "7.0"), (WHOLE, "null"), (WHOLE, "true"), (WHOLE, "0"), (WHOLE, "1001"), (WHOLE, ""),
        (WHOLE, "9" * 400), (WHOLE, "\u0667"), (NUMBER, "nan"), (NUMBER, "inf"), (NUMBER, "1e999"), (NUMBER, "x"),
        (NUMBER, "-1"), (FLAG, "True"), (FLAG, "1"), (FLAG, "yes"), (CHOICE, "f64"), (CHOICE, "F16"), (TEXT, "a\nb"),
        (TEXT, "a\x00"), (TEXT, "x" * 5000),
    ],
)  # fmt: skip
def test_text_of_another_type_is_refused(option: EngineOption, text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        option.of_text(text)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (TEXT, 7), (TEXT, None), (TEXT, True), (WHOLE, "7"), (WHOLE, 7.0), (WHOLE, True), (WHOLE, None),
        (WHOLE, 10**400),
        (NUMBER, "0.5"), (NUMBER, True), (NUMBER, None), (NUMBER, 10**400), (NUMBER, float("nan")), (FLAG, 1),
        (FLAG, "true"), (FLAG, None),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(option: EngineOption, value: Any) -> None:
    with pytest.raises(ValueError, match="is not"):
        option.value(value)


def test_yaml_that_makes_a_number_of_text_is_told_to_quote_it() -> None:
    with pytest.raises(ValueError, match="in quotes"):
        TEXT.value(7)


def as_text(value: Scalar) -> str:
    """As a person writes it on a command line."""
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


def test_a_value_survives_every_way_it_takes() -> None:
    """Command line to ``suite.json`` to the worker's file, or its command line, to ``spec.json`` to a resumed run."""
    drawn = random.Random(20)  # noqa: S311  # values, not secrets
    texts = ["007", "1e3", "null", "true", "0.1", "-", "a b", " ", "\u00e9", "--x", "=", *map(str, range(50))]
    for _ in range(2000):
        pairs: list[tuple[EngineOption, Scalar]] = [
            (TEXT, drawn.choice(texts)),
            (WHOLE, drawn.randint(1, 1000)),
            (NUMBER, drawn.choice([drawn.random(), drawn.expovariate(1e-9), 5e-324, 0.1 + 0.2, 1e30, 3.0])),
            (FLAG, drawn.random() < 0.5),
            (CHOICE, drawn.choice(["f16", "f32"])),
        ]
        option, value = drawn.choice(pairs)
        kept = option.value(json.loads(json.dumps(option.value(value))))
        sent = option.of_text(as_text(kept))
        back = option.value(json.loads(json.dumps(sent)))
        assert (back, type(back)) == (value, type(value))


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "int", "default": "x"}, {"type": "int", "default": 3, "min": 4},
        {"type": "str", "default": "x", "min": 1},
        {"type": "int", "default": 1, "choices": ["1"]}, {"type": "str", "default": "x", "choices": ["y"]},
        {"type": "bool", "default": 0}, {"words": "two\nlines of it"}, {"type": "float", "default": True},
    ],
)  # fmt: skip
def test_a_declaration_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EngineOption.model_validate({"type": "str", "default": "x", "words": "what it does", **changes})


def test_names_and_devices() -> None:
    gpu = EngineOption(type="int", default=1, words="of a GPU alone", devices=("cuda",))
    declared = {"level": WHOLE, "share": gpu}
    on_cpu = Options("engine", declared, "cpu")
    assert on_cpu.defaults == {"level": 4}
    assert Options("engine", declared, "cuda").defaults == {"level": 4, "share": 1}
    with pytest.raises(BadInput) as caught:
        on_cpu.checked({"share": 2})
    assert caught.value.cause == "option engine.share has no effect on cpu"
    with pytest.raises(BadInput) as caught:
        on_cpu.checked({"levle": 2})
    assert caught.value.cause == "image engine has no option 'levle'"
    assert caught.value.hint.startswith("did you mean level?")
    with pytest.raises(BadInput) as caught:
        Options("engine", {}).read("level", "2")
    assert caught.value.hint == "engine has no options"
