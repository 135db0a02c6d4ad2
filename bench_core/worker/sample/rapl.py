"""Energy of the CPU packages from the kernel's powercap files (RAPL), where this process may read them.

Since Linux 5.10 only root may (CVE-2020-8694), and container engines hide them: ``None`` is the usual answer.
"""

from __future__ import annotations

import os
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class PackageEnergy:
    """The energy of all packages since this reader was opened. Each counter wraps at its own range."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._zones: dict[Path, int] = {}
        self._last: dict[Path, int] = {}
        self._total_uj = 0
        try:
            zones = sorted(root / name for name in os.listdir(root) if "-rapl:" in name)
        except OSError:
            zones = []
        for zone in zones:
            try:
                # Sub-zones (core, dram, uncore) are part of a package's count or beside it; psys is the whole board.
                if not (zone / "name").read_text(encoding="ascii").strip().startswith("package"):
                    continue
                self._last[zone] = _number(zone / "energy_uj")
                self._zones[zone] = _number(zone / "max_energy_range_uj")
            except (OSError, ValueError):
                # One that cannot be read makes the sum a part of the truth: better none.
                self._zones, self._last = {}, {}
                return

    def read_uj(self) -> int | None:
        """Microjoules so far; ``None`` where there is nothing to read, or no longer. Must be called more often than a
        counter wraps (minutes)."""
        if not self._zones:
            return None
        for zone, range_uj in self._zones.items():
            try:
                now = _number(zone / "energy_uj")
            except (OSError, ValueError):
                self._zones = {}
                return None
            rise = now - self._last[zone]
            self._total_uj += rise if rise >= 0 else rise + range_uj
            self._last[zone] = now
        return self._total_uj


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
