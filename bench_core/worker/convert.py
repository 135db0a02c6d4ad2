"""Making an artifact: the image's converter works in a folder of its own, moved into place when whole."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from bench_core.contract.adapter import Conversion
from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.artifact import ArtifactRecord, digest_of_converter, usable_artifact
from bench_core.system.files import replace_folder, umask, write_text
from bench_core.worker.engine.clock import monotonic_ns, seconds
from bench_core.worker.engine.image import load_converter
from bench_core.worker.resolve import Resolver


def convert(resolver: Resolver, artifact: str) -> tuple[ArtifactRecord, bool]:
    """Makes ``artifact`` of the resolver's model unless it is there and whole; tells whether it was made now.

    Raises:
        BadInput: the image does not make it, or the model is not prepared.
        Exception: whatever the converter raises; nothing is left in place then.
    """
    model = resolver.model()
    image_folder = resolver.places.image_folder
    converter = load_converter(image_folder, resolver.manifest, artifact)
    converter_digest = digest_of_converter(image_folder)
    target = resolver.model_path / artifact
    present = usable_artifact(target, model.digest, converter_digest)
    if present is not None:
        return present, False
    source = resolver.model_path / layout.HF_ARTIFACT
    if not source.is_dir():
        raise BadInput(f"{source} is missing", "prepare the model first: python -m bench_core.prepare")
    work = target.with_name(f".{artifact}.{os.getpid()}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    mask = umask()
    try:
        started = monotonic_ns()
        conversion = Conversion(artifact, source, work, resolver.device, resolver.calibration(model))
        facts = converter(conversion)
        duration_s = seconds(monotonic_ns() - started)
        record = ArtifactRecord.of_folder(
            work,
            artifact=artifact,
            source_digest=model.digest,
            converter_digest=converter_digest,
            made_by=resolver.manifest.name,
            seconds=round(duration_s, 3),
            facts={str(key): str(value) for key, value in (facts or {}).items()},
        )
        write_text(work / layout.ARTIFACT_FILE, record.to_json())
        _open_as_written(work, mask)
        replace_folder(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return record, True


def _open_as_written(folder: Path, mask: int) -> None:
    """Lets those read whom the process's ``mask`` would let read. Some libraries write through temporary files, which
    are their owner's alone (safetensors does), and a box that measures may be another user."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            wanted = (0o555 if path.is_dir() else 0o444) & ~mask
            path.chmod(stat.S_IMODE(path.stat().st_mode) | wanted)
