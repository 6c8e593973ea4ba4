"""Which peers this node has met, so that one that lost its log is not taken for the one it was (CL-15): DATA/met.

Owns: the file, and the judgement of a peer's birth: 16 random bytes that a directory gets with its log and keeps
with it (birth.py). Whoever is met is noted with what it said. A peer that was met and now shows another birth lost the
log under which its incarnation may have voted and acknowledged: its directory was made by hand, or copied from where
`cluster init` wrote it. A log from before births were kept says none.
Never: a judgement on anything but births; forgets a present member.
Invariants: a peer is noted durably before a frame of its stream counts; at most MET_PEERS_MAX are kept, and those that
are no members go first; the file changes whole or not at all, and its last line is the CRC-32C of all before it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Final

from google_crc32c import value as crc32c

from hypercluster.errors import REJOIN, DamagedError, check
from hypercluster.limits import LEARNERS_MAX, VOTERS_MAX
from hypercluster.storage.disk import Disk
from hypercluster.values import Incarnation

MET_NAME: Final = "met"
MET_PEERS_MAX: Final = 64
_FILE_BYTES_MAX: Final = 8_192
_FIRST_LINE: Final = "hypercluster peers met, format: 1"
_MET: Final = re.compile(r"met: ([0-9a-f]{32}) ([0-9a-f]{32}|-)")

check(2 * (VOTERS_MAX + LEARNERS_MAX) < MET_PEERS_MAX, "every member and its successor must be remembered")


class MetPeers:
    def __init__(self, disk: Disk, directory: str) -> None:
        """Raises DamagedError."""
        self._disk = disk
        self._path = os.path.join(directory, MET_NAME)
        self._met = self._load()

    def admit(self, incarnation: Incarnation, birth: bytes, members: Collection[Incarnation]) -> bool:
        """False: it was met before, and its log is gone. True: it is noted. Blocks for a sync when it is news."""
        known = self._met.get(incarnation)
        if known is not None:
            return not birth or birth == known
        met = {**self._met, incarnation: birth}
        for old in [one for one in met if one not in members and one != incarnation]:
            if len(met) <= MET_PEERS_MAX:
                break
            del met[old]
        self._write(met)
        self._met = met
        return True

    def _load(self) -> dict[Incarnation, bytes]:
        if not self._disk.exists(self._path):
            return {}
        file = self._disk.open(self._path)
        try:
            content = file.pread(_FILE_BYTES_MAX + 1, 0)
        finally:
            file.close()
        met: dict[Incarnation, bytes] = {}
        for line in content.decode("ascii", "replace").splitlines()[1:-1]:
            found = _MET.fullmatch(line)
            if found is not None:
                met[Incarnation(bytes.fromhex(found[1]))] = b"" if found[2] == "-" else bytes.fromhex(found[2])
        if _render(met) != content:
            raise DamagedError(f"{self._path} is damaged. {REJOIN}")
        return met

    def _write(self, met: dict[Incarnation, bytes]) -> None:
        temporary = self._path + ".tmp"
        if self._disk.exists(temporary):
            self._disk.unlink(temporary)
        file = self._disk.open(temporary, create=True)
        try:
            file.pwrite(_render(met), 0)
            file.fsync()
        finally:
            file.close()
        self._disk.rename(temporary, self._path)
        self._disk.fsync_dir(os.path.dirname(self._path))


def _render(met: dict[Incarnation, bytes]) -> bytes:
    lines = [_FIRST_LINE, *(f"met: {one.hex()} {birth.hex() or '-'}" for one, birth in met.items())]
    body = ("\n".join(lines) + "\n").encode("ascii")
    return body + f"crc32c: {crc32c(body):08x}\n".encode("ascii")
