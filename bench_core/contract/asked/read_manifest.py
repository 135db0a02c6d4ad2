"""An ``image.yaml`` handed from the process that has read it to one that has the same file."""

from __future__ import annotations

from pathlib import Path

from bench_core.contract.asked.manifest import READ, Manifest, text_of
from bench_core.contract.records import layout
from bench_core.contract.records.digest import text_sha256
from bench_core.contract.records.record import Record


class ReadManifest(Record):
    """What was read, and of which text.

    Reading YAML, with the import of what reads it, is a tenth of a short launch. The digest says whether the container
    has the same file; if not, it reads its own, and finds what differs from the plan.

    Attributes:
        sha256: of the text, in lower-case hex.
    """

    sha256: str
    manifest: Manifest

    @classmethod
    def of(cls, folder: Path) -> ReadManifest:
        """Of an image's folder.

        Raises:
            BadInput: as :meth:`Manifest.load`.
        """
        text = text_of(folder)
        return cls(sha256=text_sha256(text), manifest=Manifest.parse_yaml(text, str(folder / layout.MANIFEST_FILE)))

    def keep(self) -> None:
        """From now on this process takes it for that text."""
        READ.setdefault(self.sha256, self.manifest)
