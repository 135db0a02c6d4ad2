"""A converter that does its work: what it is for is to show whose the artifact is."""

from __future__ import annotations

import os
from collections.abc import Mapping

from bench_core.contract.adapter import Conversion


def make(conversion: Conversion) -> Mapping[str, str]:
    """One small file, in a folder of its own. Facts: as whom it was made."""
    (conversion.target / "inner").mkdir()
    (conversion.target / "inner" / "weights").write_bytes(b"x" * 1000)
    return {"uid": str(os.getuid())}
