"""By what peers notice that this node's log is gone (CL-15): DATA/birth.

Owns: the file: 16 random bytes, made anew whenever a directory is opened without any segment of a log.
Never: changed while there is a log. A directory from before this file was written has none, and says so with b"".
Invariants: a birth is durable before the log it stands for is made, so a log that was lost stays noticed however often
the node is started after it; the file changes whole or not at all, and its last line is the CRC-32C of all before it.
"""

from __future__ import annotations

import os
import re
from typing import Final

from google_crc32c import value as crc32c

from hypercluster.errors import REJOIN, DamagedError
from hypercluster.storage.disk import Disk

BIRTH_NAME: Final = "birth"
BIRTH_BYTES: Final = 16
_FILE_BYTES_MAX: Final = 256
_BIRTH: Final = re.compile(rb"hypercluster log birth, format: 1\nbirth: ([0-9a-f]{32})\ncrc32c: [0-9a-f]{8}\n")


def birth_of(disk: Disk, directory: str, *, had_log: bool) -> bytes:
    """Of the log in `directory`; call it before the log is opened. b'' of one that is older than this file. Raises
    DamagedError."""
    path = os.path.join(directory, BIRTH_NAME)
    if not had_log:
        birth = os.urandom(BIRTH_BYTES)
        _write(disk, path, _render(birth))
        return birth
    if not disk.exists(path):
        return b""
    file = disk.open(path)
    try:
        content = file.pread(_FILE_BYTES_MAX + 1, 0)
    finally:
        file.close()
    found = _BIRTH.fullmatch(content)
    if found is None or _render(bytes.fromhex(found[1].decode("ascii"))) != content:
        raise DamagedError(f"{path} is damaged. {REJOIN}")
    return bytes.fromhex(found[1].decode("ascii"))


def _write(disk: Disk, path: str, content: bytes) -> None:
    temporary = path + ".tmp"
    if disk.exists(temporary):
        disk.unlink(temporary)
    file = disk.open(temporary, create=True)
    try:
        file.pwrite(content, 0)
        file.fsync()
    finally:
        file.close()
    disk.rename(temporary, path)
    disk.fsync_dir(os.path.dirname(path))


def _render(birth: bytes) -> bytes:
    body = f"hypercluster log birth, format: 1\nbirth: {birth.hex()}\n".encode("ascii")
    return body + f"crc32c: {crc32c(body):08x}\n".encode("ascii")
