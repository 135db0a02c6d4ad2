"""The mailbox between nodes and driver: an actor at the head, which holds what is not fetched yet."""

from __future__ import annotations

import asyncio
from typing import Any

# Of a launch: its number, what it is, and what it says (drive/cluster/node.py and executor.py).
Item = tuple[int, str, Any]


class Post:
    """Takes news of launches, in the order in which each sends them, and hands them to the driver."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._come = asyncio.Event()
        self._stops = 0

    async def put(self, items: list[Item]) -> int:
        """News of launches; returns how often a stop was asked for."""
        if items:
            self._items += items
            self._come.set()
        return self._stops

    async def take(self, patience_s: float) -> list[Item]:
        """All that has come, as soon as something has; nothing after ``patience_s``."""
        try:
            await asyncio.wait_for(self._come.wait(), patience_s)
        except asyncio.TimeoutError:
            return []
        self._come.clear()
        items, self._items = self._items, []
        return items

    async def stop(self) -> None:
        """Once more."""
        self._stops += 1
