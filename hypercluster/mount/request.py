"""One request of the kernel, from when it is read until it is answered.

Owns: who asks (uid, gid, pid as the kernel says them) and every form of an answer.
Never: decides what the answer is.
Invariants: a request is answered exactly once, from any thread; a second answer is a defect and stops the worker, for
libfuse has freed the request by then. Entries are given for zero seconds: the kernel asks for a name each time.
Attributes are given for ATTRIBUTES_S, and the kernel is told of each change before that (front.py, WS-62).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Iterable
from typing import Any, Final

from hypercluster.client.live.ports import KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK, ROOT_ID, Listed, Node, Recall
from hypercluster.errors import check
from hypercluster.mount import libfuse

TYPE_BITS: Final = {KIND_FILE: stat.S_IFREG, KIND_DIRECTORY: stat.S_IFDIR, KIND_SYMLINK: stat.S_IFLNK}
BLOCK_BYTES: Final = 512  # the unit of st_blocks
DIRENT_BYTES_MIN: Final = 32  # an entry of readdir with a name of one byte
IO_BYTES: Final = 64 * 1024  # st_blksize, a chunk
ATTRIBUTES_S: Final = 10.0  # the kernel is told of every change; this bounds how long a mistake would last
STATFS_FREE_BYTES: Final = 1 << 44  # shown as free; what really ends a write is EDQUOT

_interrupts: dict[int, Recall] = {}
_interrupts_lock = threading.Lock()


def _interrupted(request: int | None, _unused: object) -> None:
    """Called by libfuse under the request's lock: it may only pass the word on."""
    with _interrupts_lock:
        recall = _interrupts.get(request or 0)
    if recall is not None:
        recall.ask()


_INTERRUPTED: Final[Any] = libfuse.InterruptFunction(_interrupted)


def node_id_of(node: Node) -> int:
    """What the kernel calls it: its InodeNo, which is never used twice (WS-10)."""
    return libfuse.ROOT_NODE if node.inode_id == ROOT_ID else node.ino


def fill_stat(target: Any, node: Node) -> None:
    target.st_ino = node.ino
    target.st_mode = TYPE_BITS[node.kind] | node.mode
    target.st_nlink = node.nlink
    target.st_uid = node.uid
    target.st_gid = node.gid
    target.st_size = node.size
    target.st_blksize = IO_BYTES
    target.st_blocks = -(-node.size // BLOCK_BYTES)
    seconds, nanos = divmod(node.mtime_ns, 1_000_000_000)
    target.st_mtimespec.tv_sec = target.st_atimespec.tv_sec = seconds  # atime is not kept (WS-15)
    target.st_mtimespec.tv_nsec = target.st_atimespec.tv_nsec = nanos
    target.st_ctimespec.tv_sec, target.st_ctimespec.tv_nsec = divmod(node.ctime_ns, 1_000_000_000)


class Request:
    """Made in the thread that read it."""

    __slots__ = ("_answered", "_raw", "gid", "pid", "recall", "uid")

    def __init__(self, raw: int) -> None:
        self._raw = raw
        self._answered = False
        self.recall: Recall | None = None  # of a request that waits: asked when the caller gets a signal
        context = libfuse.request_context(raw).contents
        self.uid: int = context.uid
        self.gid: int = context.gid
        self.pid: int = context.pid  # of the calling thread; 0 when the kernel asks for itself

    def _take(self) -> int:
        check(not self._answered, "a request of the kernel is answered once")
        self._answered = True
        if self.recall is not None:
            with _interrupts_lock:
                _interrupts.pop(self._raw, None)
        return self._raw

    @property
    def answered(self) -> bool:
        return self._answered

    def listen(self) -> None:
        """For a request that will wait: from now on `recall` is there, and asked if the caller gets a signal."""
        check(self.recall is None, "a request listens once")  # libfuse.py says why
        self.recall = Recall()
        with _interrupts_lock:
            _interrupts[self._raw] = self.recall
        libfuse.on_interrupt(self._raw, _INTERRUPTED, None)

    # --- answers ------------------------------------------------------------------------------------

    def error(self, number: int) -> None:
        libfuse.reply_error(self._take(), number)

    def done(self) -> None:
        libfuse.reply_error(self._take(), 0)

    def none(self) -> None:
        """For forgets, which the kernel does not wait for."""
        libfuse.reply_none(self._take())

    def entry(self, node: Node, *, lasting: bool, number: int = 0) -> bool:
        """False: the kernel does not wait any more and has not looked the node up. Attributes may be `lasting` for a
        node the kernel has: only then does it notice that it was told of a change while this answer was on its way.
        `number`: its node id, where that is not the InodeNo."""
        entry = _entry(node, ATTRIBUTES_S if lasting else 0.0, number)
        answer: int = libfuse.reply_entry(self._take(), ctypes.byref(entry))
        return answer == 0

    def created(self, node: Node, handle: int, *, cached: bool, number: int = 0) -> bool:
        entry, opened = _entry(node, 0.0, number), _opened(handle, cached=cached)
        answer: int = libfuse.reply_create(self._take(), ctypes.byref(entry), ctypes.byref(opened))
        return answer == 0

    def attributes(self, node: Node, *, lasting: bool) -> None:
        """`lasting` for getattr; attributes that were set the kernel takes unseen."""
        target = libfuse.Stat()
        fill_stat(target, node)
        libfuse.reply_attr(self._take(), ctypes.byref(target), ATTRIBUTES_S if lasting else 0.0)

    def opened(self, handle: int, *, cached: bool) -> bool:
        """False: the kernel does not wait any more, and there will be no release."""
        answer: int = libfuse.reply_open(self._take(), ctypes.byref(_opened(handle, cached=cached)))
        return answer == 0

    def target(self, text: bytes) -> None:
        libfuse.reply_bytes(self._take(), text, len(text))

    def content(self, content: bytes) -> None:
        libfuse.reply_bytes(self._take(), content, len(content))

    def written(self, byte_count: int) -> None:
        libfuse.reply_write(self._take(), byte_count)

    def attribute_value(self, value: bytes, room: int) -> None:
        """For getxattr and listxattr: with no room its size is asked for."""
        if room == 0:
            libfuse.reply_xattr_size(self._take(), len(value))
        elif len(value) > room:
            self.error(errno.ERANGE)
        else:
            self.content(value)

    def lock(self, kind: int, start: int = 0, length: int = 0, pid: int = 0) -> None:
        """What would hinder the lock that was asked about: F_UNLCK for nothing; length 0 is up to the end."""
        libfuse.reply_lock(self._take(), ctypes.byref(libfuse.Flock(kind, os.SEEK_SET, start, length, pid)))

    def entries(self, rows: Iterable[tuple[bytes, Node | Listed]], first_offset: int, room: int) -> None:
        """As many of them as fit; `first_offset` is the offset that stands for the first one."""
        buffer = ctypes.create_string_buffer(room)
        used = 0
        raw = self._raw
        target = libfuse.Stat()
        for offset, (name, node) in enumerate(rows, first_offset + 1):
            target.st_ino = node.ino
            target.st_mode = TYPE_BITS[node.kind]
            free = room - used
            at = ctypes.addressof(buffer) + used
            needed: int = libfuse.add_direntry(raw, at, free, name, ctypes.byref(target), offset)
            if needed > free:
                break
            used += needed
        libfuse.reply_bytes(self._take(), buffer, used)

    def space(self, bytes_used: int, inodes: int, name_bytes_max: int) -> None:
        """For statfs: the workspace has no size of its own, so what is free is a large number."""
        found = libfuse.StatVfs()
        found.f_bsize = found.f_frsize = IO_BYTES
        free = STATFS_FREE_BYTES // IO_BYTES
        found.f_blocks = -(-bytes_used // IO_BYTES) + free
        found.f_bfree = found.f_bavail = free
        found.f_files = inodes + (1 << 32)
        found.f_ffree = found.f_favail = 1 << 32
        found.f_namemax = name_bytes_max
        libfuse.reply_statfs(self._take(), ctypes.byref(found))


def fitting_rows(rows: list[tuple[bytes, Node | Listed]], offset: int, room: int) -> list[tuple[bytes, Node | Listed]]:
    """As many as can fit the room, and at most one more."""
    return rows[offset : offset + room // DIRENT_BYTES_MIN + 1]


def _entry(node: Node, attributes_s: float, number: int) -> Any:
    entry = libfuse.EntryParam()
    entry.ino = number or node_id_of(node)
    entry.attr_timeout = attributes_s
    fill_stat(entry.attr, node)
    return entry


def _opened(handle: int, *, cached: bool) -> Any:
    opened = libfuse.FileInfo()
    opened.fh = handle
    opened.direct_io = 0 if cached else 1
    return opened
