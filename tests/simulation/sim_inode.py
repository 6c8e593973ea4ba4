"""The bytes of one simulated file: what a reader sees, what the platters hold, and what a crash may leave.

Owns: `SimInode`. Never: names, faults or the order of operations (sim_disk.py).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

SECTOR_BYTES = 512


@dataclass(slots=True, eq=False)
class SimInode:
    """`durable` is what the platters hold; `versions` the newer contents of each sector written since the last sync."""

    path: str  # its newest name, also for those who opened it under an older one
    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    versions: dict[int, list[bytes]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)  # since the last sync

    def note(self, offset: int, size_bytes: int) -> None:
        """Remembers the sectors of a write that has just been done."""
        first, end = offset // SECTOR_BYTES, -(-(offset + size_bytes) // SECTOR_BYTES)
        written = bytes(self.content[first * SECTOR_BYTES : end * SECTOR_BYTES])
        versions = self.versions
        for sector in range(first, end):
            at = (sector - first) * SECTOR_BYTES
            content = written[at : at + SECTOR_BYTES]
            known = versions.get(sector)
            if known is None:
                versions[sector] = [content]
            else:
                known.append(content)

    def make_durable(self) -> None:
        if len(self.durable) != len(self.content):
            resize(self.durable, len(self.content))
        for sector, versions in self.versions.items():
            at = sector * SECTOR_BYTES
            newest = versions[-1][: max(0, len(self.content) - at)]
            self.durable[at : at + len(newest)] = newest
        self.forget()

    def forget(self) -> None:
        self.versions.clear()
        self.sizes.clear()

    def crash(self, rng: random.Random) -> None:
        if self.sizes:
            resize(self.durable, rng.choice([len(self.durable), *self.sizes]))
        for sector in sorted(self.versions):
            at = sector * SECTOR_BYTES
            choice = rng.randrange(len(self.versions[sector]) + 1)
            if choice and at < len(self.durable):
                kept = self.versions[sector][choice - 1][: len(self.durable) - at]
                self.durable[at : at + len(kept)] = kept
        self.forget()
        self.content = bytearray(self.durable)


def resize(content: bytearray, size_bytes: int) -> None:
    if size_bytes < len(content):
        del content[size_bytes:]
    else:
        content.extend(bytes(size_bytes - len(content)))
