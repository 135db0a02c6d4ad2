"""What ``image.yaml`` declares under ``options`` is what its adapter reads, for every image of the repository.

Read from the source, so that it holds for engines that are not installed here; the contract suite's check
``options_are_declared`` shows the same in the image itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench_core.contract.asked.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = sorted(
    path.parent
    for pattern in ("images/*/image.yaml", "docker/template/image.yaml", "tests/docker_faults/images/*/image.yaml")
    for path in ROOT.glob(pattern)
)


def _names_read(source: str) -> Iterator[str]:
    """``variant.options["x"]``, ``self._options["x"]``, ``options["x"]`` and the same with ``.get``."""
    for node in ast.walk(ast.parse(source)):
        key: ast.expr | None = None
        if isinstance(node, ast.Subscript):
            holder, key = node.value, node.slice
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
        ):
            holder, key = node.func.value, node.args[0]
        if key is None:
            continue
        name = holder.attr if isinstance(holder, ast.Attribute) else holder.id if isinstance(holder, ast.Name) else ""
        if name in ("options", "_options"):
            assert isinstance(key, ast.Constant), (
                f"{ast.dump(key)}: an option is read by a name that is not written out"
            )
            yield str(key.value)


@pytest.mark.parametrize("folder", IMAGES, ids=lambda folder: folder.name)
def test_an_adapter_reads_the_options_that_are_declared_and_no_other(folder: Path) -> None:
    text = (folder / "image.yaml").read_text(encoding="utf-8").replace("NAME", "name")
    manifest = Manifest.parse_yaml(text, folder.name)
    scripts = (path for path in folder.glob("*.py") if path.name != "serve.py")  # a process of its own
    read = {name for path in scripts for name in _names_read(path.read_text(encoding="utf-8"))}
    assert read | manifest.server_options == set(manifest.options)


def test_the_reader_sees_every_form() -> None:
    source = 'a = variant.options["x"]\nb = self._options["y"]\nc = options.get("z", 1)\nd = other["w"]\n'
    assert set(_names_read(source)) == {"x", "y", "z"}
    with pytest.raises(AssertionError, match="not written out"):
        list(_names_read("variant.options[name]"))
