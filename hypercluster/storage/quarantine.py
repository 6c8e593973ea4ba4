"""The commands that a node refuses as INTERNAL instead of judging them (CL-16): DATA/quarantine and DATA/apply-failed.

Owns: both files. `quarantine` lists what an operator took out; `apply-failed` notes the entry at which apply stopped
this node last, which proves that every entry below it had been applied.
Never: whether a command may be taken out (the command does), or a comparison with peers (raft/peer_hello.py).
Invariants: a file appears or changes whole or not at all, and is synced before anything reports it; the list is
sorted, without repetition, at most QUARANTINED_MAX long, and only grows; the last line is the CRC-32C of all before
it, and what is read back renders to the very bytes of the file.
"""

from __future__ import annotations

import os
import re
from typing import Final

from google_crc32c import value as crc32c

from hypercluster.errors import REJOIN, DamagedError, TooLargeError, WrongDirectoryError
from hypercluster.limits import QUARANTINED_MAX
from hypercluster.state_machine.machine import Quarantined
from hypercluster.storage.disk import Disk
from hypercluster.values import Index

QUARANTINE_NAME: Final = "quarantine"
FAILED_NAME: Final = "apply-failed"
FILE_BYTES_MAX: Final = 4_096
_FORMAT_VERSION: Final = 1
_FIRST_LINE: Final = re.compile(rb"hypercluster (quarantine|apply failure), format: ([1-9][0-9]{0,8})")
_REFUSED: Final = re.compile(r"refused: ([1-9][0-9]{0,18}) (all|0|[1-9][0-9]{0,8})")
_FAILED: Final = re.compile(r"failed: ([1-9][0-9]{0,18})")


def order(found: Quarantined) -> tuple[int, int]:
    """All of an entry comes before its single commands."""
    return found.index, -1 if found.ordinal is None else found.ordinal


def load_quarantine(disk: Disk, directory: str) -> tuple[Quarantined, ...]:
    """() when there is none. Raises DamagedError, or WrongDirectoryError for a newer format."""
    path = os.path.join(directory, QUARANTINE_NAME)
    content = _read(disk, path)
    if content is None:
        return ()
    found = []
    for line in _lines(content, path, b"quarantine"):
        match = _REFUSED.fullmatch(line)
        if match is None:
            raise _damaged(path)
        found.append(Quarantined(Index(int(match[1])), None if match[2] == "all" else int(match[2])))
    if render_quarantine(tuple(found)) != content or len(found) > QUARANTINED_MAX:
        raise _damaged(path)
    return tuple(found)


def add_quarantine(disk: Disk, directory: str, added: Quarantined) -> tuple[Quarantined, ...]:
    """The list with `added`, durable. Call it with the DirectoryLock held. Raises TooLargeError."""
    before = load_quarantine(disk, directory)
    if added in before:
        return before
    if len(before) >= QUARANTINED_MAX:
        raise TooLargeError(f"quarantine: {len(before)} commands, limit QUARANTINED_MAX is {QUARANTINED_MAX}")
    after = tuple(sorted((*before, added), key=order))
    write_quarantine(disk, directory, after)
    return after


def write_quarantine(disk: Disk, directory: str, listed: tuple[Quarantined, ...]) -> None:
    _write(disk, os.path.join(directory, QUARANTINE_NAME), render_quarantine(listed))


def render_quarantine(listed: tuple[Quarantined, ...]) -> bytes:
    lines = [f"hypercluster quarantine, format: {_FORMAT_VERSION}"]
    lines += [
        f"refused: {one.index} {'all' if one.ordinal is None else one.ordinal}"
        for one in sorted(set(listed), key=order)
    ]
    return _closed(lines)


def note_failure(disk: Disk, directory: str, index: int) -> None:
    """Apply of entry `index` stopped the node, so everything below it had been applied."""
    if index > load_failure(disk, directory):
        _write(disk, os.path.join(directory, FAILED_NAME), render_failure(index))


def load_failure(disk: Disk, directory: str) -> int:
    """The entry at which apply stopped this node; 0 when that never happened. Raises as `load_quarantine`."""
    path = os.path.join(directory, FAILED_NAME)
    content = _read(disk, path)
    if content is None:
        return 0
    lines = _lines(content, path, b"apply failure")
    match = _FAILED.fullmatch(lines[0]) if len(lines) == 1 else None
    if match is None or render_failure(int(match[1])) != content:
        raise _damaged(path)
    return int(match[1])


def render_failure(index: int) -> bytes:
    return _closed([f"hypercluster apply failure, format: {_FORMAT_VERSION}", f"failed: {index}"])


def _closed(lines: list[str]) -> bytes:
    body = ("\n".join(lines) + "\n").encode("ascii")
    return body + f"crc32c: {crc32c(body):08x}\n".encode("ascii")


def _lines(content: bytes, path: str, kind: bytes) -> list[str]:
    """What stands between the first line and the checksum."""
    end = content.rfind(b"\n", 0, -1) + 1
    body, last = content[:end], content[end:]
    if len(content) > FILE_BYTES_MAX or not body or last != f"crc32c: {crc32c(body):08x}\n".encode("ascii"):
        raise _damaged(path)
    first, *rest = body.split(b"\n")[:-1]
    match = _FIRST_LINE.fullmatch(first)
    if match is None or match[1] != kind:
        raise _damaged(path)
    if int(match[2]) > _FORMAT_VERSION:
        raise WrongDirectoryError(
            f"{path} has format {int(match[2])}, this release reads up to {_FORMAT_VERSION}: "
            "install the release that wrote it"
        )
    try:
        return [line.decode("ascii") for line in rest]
    except UnicodeDecodeError:
        raise _damaged(path) from None


def _damaged(path: str) -> DamagedError:
    return DamagedError(f"{path} is damaged. {REJOIN}")


def _read(disk: Disk, path: str) -> bytes | None:
    if not disk.exists(path):
        return None
    file = disk.open(path)
    try:
        return file.pread(FILE_BYTES_MAX + 1, 0)
    finally:
        file.close()


def _write(disk: Disk, path: str, content: bytes) -> None:
    temporary = f"{path}.tmp"
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
