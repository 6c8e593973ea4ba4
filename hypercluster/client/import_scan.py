"""What there is to import: one pass over a local directory, without reading content.

Owns: `LocalTree`: directories before what is in them, files, symlinks, hard links (by device and inode number), and
what was skipped and why.
Never: talks to a cluster, opens a file.
Invariants: paths are bytes relative to the top; names come in byte order, so two scans of an unchanged tree are
equal; a file with several names is a file once and a link for every other name.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from hypercluster.client.local_patterns import LocalPatterns

STAYS = "stays on this host, by the workspace's local patterns"


@dataclass(frozen=True, slots=True)
class LocalEntry:
    """One name. `mode` holds the permission bits only."""

    path: bytes
    mode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class LocalLink:
    """Another name of the file first met as `target`."""

    path: bytes
    target: bytes


@dataclass(slots=True)
class LocalTree:
    top: bytes
    root: LocalEntry
    directories: list[LocalEntry] = field(default_factory=list)
    files: list[LocalEntry] = field(default_factory=list)
    symlinks: list[LocalEntry] = field(default_factory=list)
    links: list[LocalLink] = field(default_factory=list)
    skipped: list[tuple[bytes, str]] = field(default_factory=list)

    @property
    def bytes_total(self) -> int:
        return sum(entry.size for entry in self.files)

    def by_depth(self) -> list[list[LocalEntry]]:
        """Directories grouped so that every group's parents are in the groups before it."""
        groups: dict[int, list[LocalEntry]] = {}
        for directory in self.directories:
            groups.setdefault(directory.path.count(b"/"), []).append(directory)
        return [groups[depth] for depth in sorted(groups)]


def scan(top: bytes, local: LocalPatterns | None = None) -> LocalTree:
    """Raises OSError if `top` can not be listed; what can not be listed below it is skipped and named, and so is what
    stays on its host (WS-56)."""
    found = LocalTree(top, _entry(b"", os.stat(top)))
    first_name: dict[tuple[int, int], bytes] = {}
    pending = [b""]
    while pending:
        base = pending.pop()
        try:
            names = sorted(os.listdir(os.path.join(top, base) if base else top))
        except OSError as error:
            if not base:
                raise
            found.skipped.append((base, error.strerror or "can not be listed"))
            continue
        below: list[bytes] = []
        for name in names:
            path = base + b"/" + name if base else name
            if _take(found, first_name, path, local):
                below.append(path)
        pending.extend(reversed(below))
    return found


def _take(found: LocalTree, first_name: dict[tuple[int, int], bytes], path: bytes, local: LocalPatterns | None) -> bool:
    """Adds one name; True for a directory to go into."""
    try:
        status = os.lstat(os.path.join(found.top, path))
    except OSError as error:
        found.skipped.append((path, error.strerror or "can not be read"))
        return False
    if local is not None and local.is_local(path, stat.S_ISDIR(status.st_mode)):
        found.skipped.append((path, STAYS))
        return False
    entry = _entry(path, status)
    if stat.S_ISDIR(status.st_mode):
        found.directories.append(entry)
        return True
    if stat.S_ISLNK(status.st_mode):
        found.symlinks.append(entry)
    elif stat.S_ISREG(status.st_mode):
        identity = (status.st_dev, status.st_ino)
        first = first_name.setdefault(identity, path) if status.st_nlink > 1 else path
        if first == path:
            found.files.append(entry)
        else:
            found.links.append(LocalLink(path, first))
    else:
        found.skipped.append((path, "not a file, directory or symlink"))
    return False


def _entry(path: bytes, status: os.stat_result) -> LocalEntry:
    return LocalEntry(path, stat.S_IMODE(status.st_mode), status.st_size, status.st_mtime_ns)


def user_xattrs(path: bytes) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """(name and value of user.* attributes, names of others, which belong to the host)."""
    mine: list[tuple[bytes, bytes]] = []
    others: list[bytes] = []
    try:
        names = sorted(os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False))
    except OSError:
        return [], []  # the file system has none
    for name in names:
        if name.startswith(b"user."):
            mine.append((name, os.getxattr(path, name, follow_symlinks=False)))
        else:
            others.append(name)
    return mine, others
