"""``artifact.json``: a model in the form an engine reads, and the proof that it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.digest import entries_sha256, file_sha256
from bench_core.contract.records.record import Record


class ArtifactFile(Record):
    """One file of an artifact; ``mtime_ns`` lets an untouched file pass without being read again."""

    path: str
    size_bytes: int = Field(ge=0)
    sha256: str
    mtime_ns: int


class ArtifactRecord(Record):
    """An artifact's origin and content.

    Attributes:
        source_digest: digest of the model's ``hf`` artifact that it was made from (its own digest for ``hf``).
        converter_digest: of the converter's code and pins; an artifact of another converter is made again. Its former
            name, ``recipe``, is read too.
        made_by: the image, or how it was obtained.
        facts: what the converter says of it; ``given`` where it is from elsewhere.
        digest: over all files' paths and contents.
    """

    schema_version: Literal[1] = 1
    artifact: str
    source_digest: str
    converter_digest: str = Field(validation_alias=AliasChoices("converter_digest", "recipe"))
    made_by: str
    seconds: float = Field(ge=0)
    facts: dict[str, str] = {}
    files: tuple[ArtifactFile, ...]
    digest: str

    @property
    def given(self) -> str | None:
        """Where it was taken from, if it was brought from elsewhere instead of converted."""
        return self.facts.get("given")

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    @classmethod
    def of_folder(
        cls,
        folder: Path,
        *,
        artifact: str,
        source_digest: str | None,
        converter_digest: str,
        made_by: str,
        seconds: float,
        facts: Mapping[str, str] | None = None,
    ) -> ArtifactRecord:
        """Digests every file of a folder (reads all of it). ``source_digest=None`` means: this folder is the source.

        Raises:
            BadInput: the folder holds no file.
        """
        files = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != layout.ARTIFACT_FILE):
            status = path.stat()
            files.append(
                ArtifactFile(
                    path=path.relative_to(folder).as_posix(),
                    size_bytes=status.st_size,
                    sha256=file_sha256(path),
                    mtime_ns=status.st_mtime_ns,
                )
            )
        if not files:
            raise BadInput(f"{folder}: the converter left no file")
        digest = entries_sha256((file.path, file.sha256) for file in files)
        return cls(
            artifact=artifact,
            source_digest=source_digest or digest,
            converter_digest=converter_digest,
            made_by=made_by,
            seconds=seconds,
            facts=dict(facts or {}),
            files=tuple(files),
            digest=digest,
        )

    def damage(self, folder: Path) -> str | None:
        """What is wrong with the folder compared with this record, in one line; ``None`` if it is whole.

        A file of the recorded size and modification time counts as untouched; any other is read and digested.
        """
        for file in self.files:
            path = folder / file.path
            try:
                status = path.stat()
            except OSError:
                return f"{file.path} is missing"
            if status.st_size != file.size_bytes:
                return f"{file.path} has {status.st_size} bytes instead of {file.size_bytes}"
            if status.st_mtime_ns != file.mtime_ns and file_sha256(path) != file.sha256:
                return f"the content of {file.path} has changed"
        return None


def digest_of_converter(image_folder: Path) -> str:
    """Digest of what decides an image's conversions: its converter modules and its pinned requirements."""
    names = sorted([*image_folder.glob("convert*.py"), *image_folder.glob("requirements*.txt")])
    return entries_sha256((path.name, file_sha256(path)) for path in names)[:16]


def usable_artifact(folder: Path, source_digest: str, converter_digest: str | None) -> ArtifactRecord | None:
    """The record of a folder's artifact if it is whole, of that source and (if given) that converter; or ``None``."""
    try:
        record = ArtifactRecord.read(folder / layout.ARTIFACT_FILE)
    except BadInput:
        return None
    if record.source_digest != source_digest or converter_digest not in (None, record.converter_digest):
        return None
    return None if record.damage(folder) else record
