"""The image's own code: its manifest, its adapter, its converters, the versions of what it installed."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_core.contract.adapter import Adapter, Converter, Direct, TakesModel, Variant
from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.errors import BadInput
from bench_core.contract.records.events import NOT_INSTALLED
from bench_core.contract.records.spec import CellSpec

if TYPE_CHECKING:  # no cell needs it
    from bench_core.contract.records.device_rates import MeasuresDevice


def load_adapter(folder: Path, manifest: Manifest, gpus: int = 1) -> Adapter:
    """Sets the image's environment variables, imports its adapter (and so its engine) and makes one.

    Args:
        gpus: that the model is to be split over.

    Raises:
        BadInput: ``image.yaml`` names something that is not there, or not an adapter.
    """
    if manifest.adapter is None:
        raise BadInput(f"image {manifest.name} is no engine", "it measures devices: --measure-device")
    os.environ.update(manifest.environment_on(gpus))
    adapter = _entry_point(folder, manifest.adapter)()
    if not isinstance(adapter, Adapter):
        raise BadInput(f"{manifest.adapter} lacks a method of an adapter", "load, prepare, generate, close")
    return adapter


def load_model(adapter: Adapter, artifact: Path, variant: Variant, spec: CellSpec) -> None:
    """Has an adapter read the model of a cell, whose facts it is given before where it wants them."""
    if isinstance(adapter, TakesModel):
        adapter.take_model(spec.model)
    adapter.load(artifact, variant, spec.run_on)


def load_converter(folder: Path, manifest: Manifest, artifact: str) -> Converter:
    """Sets the image's environment variables and imports the function that makes an artifact.

    Raises:
        BadInput: the image does not make that artifact.
    """
    entry_point = manifest.converts.get(artifact)
    if entry_point is None:
        known = ", ".join(manifest.converts) or "none"
        raise BadInput(f"image {manifest.name} does not make {artifact!r}", f"it makes: {known}")
    os.environ.update(manifest.environment)
    converter: Converter = _entry_point(folder, entry_point)
    return converter


def load_probe(folder: Path, manifest: Manifest) -> MeasuresDevice:
    """Sets the image's environment variables and imports the function that offers work for measuring a device.

    Raises:
        BadInput: the image has none.
    """
    if manifest.measures_device is None:
        raise BadInput(
            f"image {manifest.name} does not measure devices", "image.yaml names no function under measures_device"
        )
    os.environ.update(manifest.environment)
    return _entry_point(folder, manifest.measures_device)


def load_direct(folder: Path, manifest: Manifest) -> Direct | None:
    """Imports the function that calls the engine directly; ``None`` where the image has none."""
    return _entry_point(folder, manifest.direct) if manifest.direct else None


def _entry_point(folder: Path, entry_point: str) -> Callable[..., Any]:
    module_name, _, attribute = entry_point.partition(":")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise  # the image's own code lacks a package: that is a failed load, not a wrong manifest
        raise BadInput(f"image.yaml names {entry_point}, but there is no {module_name}.py in {folder}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise BadInput(f"image.yaml names {entry_point}, but {module_name}.py has no {attribute}")
    return found  # type: ignore[no-any-return]  # callable() narrows Any to an unknown return


def versions(manifest: Manifest) -> dict[str, str]:
    """Versions of the image's packages and of Python; ``not installed`` where that is so."""
    found = {"python": platform.python_version()}
    if not manifest.packages:
        return found
    from importlib import metadata  # noqa: PLC0415  # a tenth of a launch's imports

    for package in manifest.packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = NOT_INSTALLED
    return found
