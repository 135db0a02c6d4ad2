"""Figures that others have published, shown beside a run's own: ``beside.yaml`` in the run's folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from bench_core.contract.asked.manifest import Name
from bench_core.contract.errors import BadInput
from bench_core.contract.records import strict_yaml
from bench_core.contract.records.record import Record


class PublishedRow(Record):
    """One published figure, and the variant here that stands for the same method."""

    label: str = Field(min_length=1, max_length=60, description="the method as its authors call it")
    image: Name
    variant: Name
    batch_size: int = Field(ge=1)
    batch_latency_s: float | None = Field(None, gt=0)
    output_tokens_per_batch: float | None = Field(None, gt=0)
    output_throughput_tok_s: float | None = Field(None, gt=0)


class Published(Record):
    """A study's figures: where they stand, what they were measured on, and what differs from a run here."""

    name: str = Field(min_length=1, max_length=60)
    source: str = Field(min_length=1, max_length=200, description="where the figures were read")
    device: str = Field(min_length=1, max_length=60)
    differs: str = Field(min_length=1, max_length=600, description="what keeps the two from being the same measurement")
    rows: tuple[PublishedRow, ...] = Field(min_length=1)

    def of(self, image: str, variant: str, batch_size: int) -> PublishedRow | None:
        """The figure beside a cell, if there is one."""
        wanted = (image, variant, batch_size)
        return next((row for row in self.rows if (row.image, row.variant, row.batch_size) == wanted), None)


def read_published(path: Path) -> Published:
    """Reads such a file.

    Raises:
        BadInput: unreadable, not YAML, or a wrong key or value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # no UTF-8, or a name that no path can have
        raise BadInput(
            f"{path} cannot be read: {error}", "published figures are a YAML file, see docs/study.yaml"
        ) from error
    return strict_yaml.parse_as(Published, text, str(path))
