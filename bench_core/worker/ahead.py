"""What every launch would make anew, and all would make alike: made once, when an image is built.

While classes are made, Python compiles texts (methods of dataclasses, annotations), and pydantic makes of annotations
what checks a record. Together that is a fifth of a short launch. ``python -m bench_core.worker.ahead`` writes both into
a file beside the compiled modules. A worker that finds no such file, or one of another Python, pydantic or source,
makes them itself.
"""

from __future__ import annotations

import dataclasses
import marshal
import os
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

FILE = Path(__file__).parent / "__pycache__" / f"ahead.{sys.implementation.cache_tag}.bin"
# Compiled code is of one Python: another could not read it.
_PYTHON = ascii((sys.version, sys.flags.optimize)).encode() + b"\n"

Made = Mapping[str, Callable[[], Any]]


class Ahead:
    """What the file holds; nothing where there is none that this Python can read.

    Attributes:
        codes: compiled texts, by what compiles them (``exec`` or ``eval``), a colon and the text.
    """

    def __init__(self, file: Path = FILE) -> None:
        self.codes: dict[str, CodeType] = {}
        self._made_of: dict[str, tuple[int, int]] = {}
        self._pydantic = ""
        self._schemas: dict[str, bytes] = {}
        try:
            content = file.read_bytes()
            if content.startswith(_PYTHON):
                held = marshal.loads(memoryview(content)[len(_PYTHON) :])  # noqa: S302  # lies with the code itself
                self.codes, self._made_of, self._pydantic, self._schemas = held
        except (OSError, EOFError, ValueError, TypeError):
            pass  # there is none, or it was cut off

    def schemas(self) -> Made:
        """Of records, by ``record.name_of``; none where they were made of something else than what was imported."""
        from _pickle import loads  # noqa: PLC0415  # what `pickle` is made of, which brings what writes as well

        from pydantic import VERSION  # noqa: PLC0415  # imported by now

        if not self._schemas or self._pydantic != VERSION or self._made_of != _sources(self._made_of):
            return {}
        return {name: partial(loads, schema) for name, schema in self._schemas.items()}


def _sources(names: typing.Iterable[str]) -> dict[str, tuple[int, int]]:
    """Time and size of modules' sources, as Python itself looks at them before it takes a compiled module."""
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found = {}
    for name in names:
        try:
            status = os.stat(f"{folder}/{name}")
        except OSError:
            continue
        found[name] = int(status.st_mtime), status.st_size
    return found


@contextmanager
def texts_compiled(codes: dict[str, CodeType]) -> Iterator[None]:
    """What dataclasses and typing compile meanwhile is taken from ``codes`` where it is there, else put there."""

    def code_of(text: Any, name: str, mode: str) -> CodeType:
        if not isinstance(text, str):
            return compile(text, name, mode, dont_inherit=True)
        key = f"{mode}:{text}"
        code = codes.get(key)
        if code is None:
            code = codes[key] = compile(text, name, mode, dont_inherit=True)
        return code

    def execute(text: Any, *names: Any) -> None:
        exec(code_of(text, "<string>", "exec"), *names)  # noqa: S102  # as they would

    vars(dataclasses)["exec"], vars(typing)["compile"] = execute, code_of  # in the place of Python's own
    try:
        yield
    finally:
        del vars(dataclasses)["exec"], vars(typing)["compile"]


def _plain(schema: Any) -> Any:
    """A schema without what only describes it to others: of that not all can be kept."""
    if isinstance(schema, dict):
        is_schema = isinstance(schema.get("type"), str)
        kept = {key: value for key, value in schema.items() if not (is_schema and key == "metadata")}
        return {key: value if is_schema and key == "default" else _plain(value) for key, value in kept.items()}
    if isinstance(schema, list | tuple):
        return type(schema)(map(_plain, schema))
    return schema


def make(file: Path = FILE) -> int:
    """Writes the file; returns how many records and readers of them it has schemas of."""
    codes: dict[str, CodeType] = {}
    with texts_compiled(codes):
        import bench_core.worker.cli  # noqa: F401, PLC0415  # with all that a worker needs

    import pickle  # noqa: PLC0415

    from pydantic import VERSION  # noqa: PLC0415

    from bench_core.contract.records.record import READERS, name_of, records  # noqa: PLC0415
    from bench_core.system.files import write_file  # noqa: PLC0415

    made: dict[str, Any] = {}
    for record in records():
        record.model_rebuild()
        made[name_of(record)] = record.__pydantic_validator__
    for reader in READERS:
        made[reader.name] = reader.validator
    schemas = {}
    for name, validator in made.items():
        schema, config, *_ = validator.__reduce__()[1]  # what it was made of, for whoever copies it
        try:
            schemas[name] = pickle.dumps((_plain(schema), config))
        except (pickle.PicklingError, AttributeError, TypeError):
            continue  # holds a function without a name: is made when it is needed
    folder = Path(__file__).parents[2]
    files = {str(module.__file__) for name, module in sys.modules.items() if name.startswith("bench_core.")}
    names = sorted(Path(file).relative_to(folder).as_posix() for file in files)
    write_file(file, _PYTHON + marshal.dumps((codes, _sources(names), VERSION, schemas)))
    return len(schemas)


if __name__ == "__main__":
    sys.stderr.write(f"{FILE.name}: schemas of {make()} records\n")
