"""The mirror held against its tree: every name, mode, time, attribute and byte read from disk again.

Owns: the walk over both, and what is found different.
Never: changes anything; trusts the database about what is on disk.
Invariants: content is compared by the hashes in the tree, which the root covers; a piece that is part of a chunk can
not be judged by the chunk's hash and is returned as `Doubt`, for whoever can fetch the chunk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from blake3 import blake3

from hypercluster.client.worker.mirror import pieces_in
from hypercluster.client.worker.mirror_disk import matches_kind
from hypercluster.client.worker.tree_view import TreeView
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK, ROOT_ID, Inode

KIND_NAMES = {KIND_FILE: "file", KIND_DIRECTORY: "directory", KIND_SYMLINK: "symlink"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference, in words. `path` is relative to the mirror."""

    path: bytes
    words: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """Bytes on disk that must equal a part of a chunk."""

    path: bytes
    piece: Extent
    content_hash: bytes  # of the bytes on disk


@dataclass(slots=True)
class Verification:
    findings: list[Finding] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    entries: int = 0
    bytes_read: int = 0

    def settle(self, doubt: Doubt, chunk: bytes | None) -> None:
        """`chunk` is the verified content of the doubted chunk, None if nobody has it."""
        piece = doubt.piece
        expected = None if chunk is None else chunk[piece.chunk_offset : piece.chunk_offset + piece.length]
        if expected is None or blake3(expected).digest() != doubt.content_hash:
            words = f"content differs at {piece.offset}, {piece.length} bytes"
            self.findings.append(Finding(doubt.path, words))


def verify(top: bytes, view: TreeView) -> Verification:
    """Walks tree and directory together."""
    found = Verification()
    identities: dict[bytes, tuple[int, int]] = {}  # inode id -> what it is on disk
    names: dict[bytes, int] = {}
    root = view.inode(ROOT_ID)
    if root is None:
        found.findings.append(Finding(b"", "the workspace has no root directory"))
        return found
    _compare(found, top, b"", root, view)
    pending = [(b"", ROOT_ID)]
    while pending:
        base, directory = pending.pop()
        on_disk = set(_listdir(found, top, base))
        for name, entry in view.entries(directory):
            path = base + b"/" + name if base else name
            found.entries += 1
            if name not in on_disk:
                found.findings.append(Finding(path, "missing"))
                continue
            on_disk.discard(name)
            inode = view.inode(entry.inode_id)
            if inode is None:
                found.findings.append(Finding(path, "its inode is not in the tree"))
                continue
            again = entry.inode_id in identities
            status = _compare(found, top, path, inode, view, content=not again)
            if status is None:
                continue
            if inode.kind == KIND_DIRECTORY:
                pending.append((path, entry.inode_id))
                continue
            names[entry.inode_id] = names.get(entry.inode_id, 0) + 1
            identity = identities.setdefault(entry.inode_id, (status.st_dev, status.st_ino))
            if identity != (status.st_dev, status.st_ino):
                found.findings.append(Finding(path, "is not the same file as its other names"))
            elif status.st_nlink != inode.nlink:
                found.findings.append(Finding(path, f"has {status.st_nlink} names, expected {inode.nlink}"))
        for name in sorted(on_disk):
            found.findings.append(Finding(base + b"/" + name if base else name, "is not in the workspace"))
    return found


def _listdir(found: Verification, top: bytes, base: bytes) -> list[bytes]:
    try:
        return os.listdir(os.path.join(top, base) if base else top)
    except OSError as error:
        found.findings.append(Finding(base, f"can not be listed: {error.strerror}"))
        return []


def _compare(
    found: Verification, top: bytes, relative: bytes, inode: Inode, view: TreeView, *, content: bool = True
) -> os.stat_result | None:
    path = os.path.join(top, relative) if relative else top

    def differs(words: str) -> None:
        found.findings.append(Finding(relative, words))

    try:
        status = os.lstat(path)
        if not matches_kind(status, inode.kind):
            differs(f"is not a {KIND_NAMES[inode.kind]}")
            return None
        if inode.kind != KIND_SYMLINK and stat.S_IMODE(status.st_mode) != inode.mode:
            differs(f"mode is {stat.S_IMODE(status.st_mode):04o}, expected {inode.mode:04o}")
        if status.st_mtime_ns != inode.mtime_ns:
            differs(f"mtime is {status.st_mtime_ns}, expected {inode.mtime_ns} (nanoseconds)")
        if inode.kind == KIND_SYMLINK:
            if os.readlink(path) != inode.target:
                differs("points elsewhere")
            return status
        xattrs = dict(_user_xattrs(path))
        if xattrs != dict(view.xattrs(inode.inode_id)):
            differs("attributes differ")
        if inode.kind == KIND_FILE:
            if status.st_size != inode.size:
                differs(f"size is {status.st_size}, expected {inode.size}")
            elif content:
                _compare_content(found, path, relative, inode, view)
    except OSError as error:
        differs(f"can not be read: {error.strerror}")
        return None
    return status


def _user_xattrs(path: bytes) -> Iterator[tuple[bytes, bytes]]:
    try:
        names = [os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False)]
    except OSError:
        return
    for name in names:
        if name.startswith(b"user."):
            yield name, os.getxattr(path, name, follow_symlinks=False)


def _compare_content(found: Verification, path: bytes, relative: bytes, inode: Inode, view: TreeView) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for piece in pieces_in(view.extents(inode), [(0, inode.size)] if inode.size else []):
            content = os.pread(opened, piece.length, piece.offset)
            found.bytes_read += len(content)
            if not piece.chunk_hash:
                if content != bytes(piece.length):
                    found.findings.append(Finding(relative, f"content differs at {piece.offset}: expected a hole"))
                continue
            content_hash = blake3(content).digest()
            if piece.chunk_offset != 0 or content_hash != piece.chunk_hash:
                found.doubts.append(Doubt(relative, piece, content_hash))
    finally:
        os.close(opened)
