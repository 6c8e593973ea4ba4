"""Operations on what is local already: content, metadata, extended attributes, directories (WS-56).

Owns: from a node or a handle of this mount to calls on the host's file behind it.
Never: names that come and go; border.py does those. No log, no cluster: a local file is this host's alone.
Invariants: nothing is reached through a symlink; uid and gid are the workspace's and stay so (WS-6); a handle acts on
the file it was opened on, whatever becomes of its names. Every call goes through `turns`, for a disk may be stuck.
The kernel keeps pages of a local file also for those who write, and writes them through: nobody else changes it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from hypercluster.client.live.ports import KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK, Listed, Node
from hypercluster.limits import XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX
from hypercluster.mount import libfuse, virtual
from hypercluster.mount.desk import Desk
from hypercluster.mount.handles import Rows
from hypercluster.mount.local.ground import Ground
from hypercluster.mount.local.table import LOCAL_BIT, LocalHandle, LocalNode, LocalTable, shown
from hypercluster.mount.request import Request, fitting_rows
from hypercluster.mount.turns import Turns

LOCAL_HERE_MAX: Final = 8
LOCAL_ASIDE_MAX: Final = 16
KEPT_FLAGS: Final = os.O_ACCMODE | os.O_TRUNC | os.O_DSYNC | os.O_SYNC  # of an open; the kernel sees to the others
USER: Final = b"user."
PERMISSIONS: Final = 0o7777
NS_PER_S: Final = 1_000_000_000

Closed = Callable[[LocalHandle], None]
LetGo = Callable[[Request, LocalHandle, int], None]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a setattr asks for: the kernel's structure lives only as long as the callback."""

    which: int
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int


class LocalFiles:
    """The operations a session calls for nodes and handles that are local. `closed` and `let_go` as those of
    ContentOperations, for the locks."""

    def __init__(self, desk: Desk, ground: Ground, closed: Closed, let_go: LetGo) -> None:
        self._desk = desk
        self._closed = closed
        self._let_go = let_go
        self.ground = ground
        self.table = LocalTable()
        self.owner = (desk.view.uid, desk.view.gid)
        self.turns = Turns(LOCAL_HERE_MAX, LOCAL_ASIDE_MAX, "fuse-local")

    # --- reaching ------------------------------------------------------------------------------------

    @contextmanager
    def reached(self, node: LocalNode) -> Iterator[int]:
        """An O_PATH descriptor of exactly this file, by its name or through one of its open files. Raises
        OSError(ESTALE) where neither leads to it."""
        descriptor = self._by_name(node)
        if descriptor is None:
            descriptor = self.table.borrow(node)
        if descriptor is None:
            raise OSError(errno.ESTALE, "the file is gone")
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _by_name(self, node: LocalNode) -> int | None:
        if node.gone:
            return None
        home, names = node.place.names()
        try:
            with self.ground.reach(home, names[:-1]) as directory:
                flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(names[-1], flags, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError):
            return None
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) == node.identity:
            return descriptor
        os.close(descriptor)
        return None

    def target(self, node: LocalNode) -> bytes:
        """Of a symlink."""
        with self.reached(node) as descriptor:
            return os.readlink(b"", dir_fd=descriptor)

    def node(self, descriptor: int) -> Node:
        status = os.fstat(descriptor)
        target = os.readlink(b"", dir_fd=descriptor) if stat.S_ISLNK(status.st_mode) else b""
        return shown(status, self.owner, target)

    # --- metadata ------------------------------------------------------------------------------------

    def getattr(self, request: Request, node: int) -> None:
        self._desk.admit(request)
        known = self.table.get(node)

        def work() -> None:
            with self.reached(known) as descriptor:
                found = self.node(descriptor)
            request.attributes(found, lasting=False)

        self.turns.take(request, work)

    def readlink(self, request: Request, node: int) -> None:
        self._desk.admit(request)
        known = self.table.get(node)

        def work() -> None:
            with self.reached(known) as descriptor:
                found = self.node(descriptor)
            if found.kind != KIND_SYMLINK:
                raise OSError(errno.EINVAL, "not a symlink")
            request.target(found.symlink_target)

        self.turns.take(request, work)

    def setattr(self, request: Request, node: int, wanted: Any, which: int, _handle: int | None) -> None:
        self._desk.admit(request)
        known = self.table.get(node)
        mtime = wanted.st_mtimespec
        asked = _Wanted(
            which,
            wanted.st_size,
            wanted.st_mode & PERMISSIONS,
            wanted.st_uid if which & libfuse.SET_UID else self.owner[0],
            wanted.st_gid if which & libfuse.SET_GID else self.owner[1],
            time.time_ns() if which & libfuse.SET_MTIME_NOW else mtime.tv_sec * NS_PER_S + mtime.tv_nsec,
        )

        def work() -> None:
            with self.reached(known) as descriptor:
                self._set(known, descriptor, asked)
                found = self.node(descriptor)
            request.attributes(found, lasting=False)

        self.turns.take(request, work)

    def _set(self, node: LocalNode, descriptor: int, asked: _Wanted) -> None:
        if (asked.uid, asked.gid) != self.owner:
            raise OSError(errno.EPERM, "everything in a workspace belongs to its user (WS-6)")
        path = through(descriptor)
        if asked.which & libfuse.SET_SIZE:
            self._truncate(node, path, asked.size)
        if asked.which & libfuse.SET_MODE:
            os.chmod(path, asked.mode)
        if asked.which & (libfuse.SET_MTIME | libfuse.SET_MTIME_NOW):
            os.utime(path, ns=(asked.mtime_ns, asked.mtime_ns))

    def _truncate(self, node: LocalNode, path: bytes, size: int) -> None:
        """Through a file that is open for writing, if there is one: it may no longer be allowed by its mode."""
        descriptor = self.table.borrow(node, writable=True)
        if descriptor is None:
            os.truncate(path, size)
            return
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

    # --- extended attributes -------------------------------------------------------------------------

    def getxattr(self, request: Request, node: int, name: bytes, room: int) -> None:
        self._desk.admit(request)
        known = self.table.get(node)
        if not name.startswith(USER):
            raise OSError(errno.EOPNOTSUPP if name.startswith(b"system.") else errno.ENODATA, "only user attributes")

        def work() -> None:
            if name == virtual.LOCAL:
                value = self.ground.path(*known.place.names())
            elif name.startswith(virtual.PREFIX):
                raise OSError(errno.ENODATA, "a local file has no such attribute")
            else:
                with self.reached(known) as descriptor:
                    value = os.getxattr(through(descriptor), name)
            request.attribute_value(value, room)

        self.turns.take(request, work)

    def listxattr(self, request: Request, node: int, room: int) -> None:
        self._desk.admit(request)
        known = self.table.get(node)

        def work() -> None:
            names: list[bytes] = []
            with self.reached(known) as descriptor:
                if not stat.S_ISLNK(os.fstat(descriptor).st_mode):
                    names = [os.fsencode(name) for name in os.listxattr(through(descriptor))]
                    names = sorted([*(name for name in names if name.startswith(USER)), virtual.LOCAL])
            request.attribute_value(b"".join(name + b"\0" for name in names), room)

        self.turns.take(request, work)

    def setxattr(self, request: Request, node: int, name: bytes, value: bytes, flags: int) -> None:
        if len(value) > XATTR_VALUE_BYTES_MAX:
            raise OSError(errno.E2BIG, f"a value is at most {XATTR_VALUE_BYTES_MAX} bytes")
        self._attribute(request, node, name, lambda path: os.setxattr(path, name, value, flags))

    def removexattr(self, request: Request, node: int, name: bytes) -> None:
        self._attribute(request, node, name, lambda path: os.removexattr(path, name))

    def _attribute(self, request: Request, node: int, name: bytes, change: Callable[[bytes], None]) -> None:
        self._desk.admit(request)
        if name.startswith(virtual.PREFIX):
            raise OSError(errno.EPERM, "the mount's own attributes can not be set")
        if not name.startswith(USER):
            raise OSError(errno.EOPNOTSUPP, "only user attributes are kept")
        if len(name) > XATTR_NAME_BYTES_MAX:
            raise OSError(errno.ERANGE, f"a name is at most {XATTR_NAME_BYTES_MAX} bytes")
        known = self.table.get(node)

        def work() -> None:
            with self.reached(known) as descriptor:
                change(through(descriptor))
            request.done()

        self.turns.take(request, work)

    # --- content -------------------------------------------------------------------------------------

    def open(self, request: Request, node: int, flags: int) -> None:
        self._open(request, node, flags & KEPT_FLAGS)

    def opendir(self, request: Request, node: int) -> None:
        self._open(request, node, os.O_RDONLY | os.O_DIRECTORY)

    def _open(self, request: Request, node: int, flags: int) -> None:
        self._desk.admit(request)
        known = self.table.get(node)

        def work() -> None:
            with self.reached(known) as descriptor:
                opened = os.open(through(descriptor), flags | os.O_CLOEXEC)
            handle = self.table.opened(known, opened, writable=flags & os.O_ACCMODE != os.O_RDONLY)
            if not request.opened(handle.number, cached=not flags & os.O_DIRECTORY):
                self.close(handle.number)

        self.turns.take(request, work)

    def read(self, request: Request, handle: int, offset: int, size: int) -> None:
        opened = self.table.handle(handle)
        self.turns.take(request, lambda: request.content(_read_fully(opened.descriptor, offset, size)))

    def write(self, request: Request, handle: int, offset: int, content: bytes, _flags: int) -> None:
        opened = self.table.handle(handle)

        def work() -> None:
            done = 0
            while done < len(content):
                done += os.pwrite(opened.descriptor, memoryview(content)[done:], offset + done)
            request.written(len(content))

        self.turns.take(request, work)

    def fsync(self, request: Request, handle: int, data_only: bool) -> None:
        opened = self.table.handle(handle)

        def work() -> None:
            (os.fdatasync if data_only else os.fsync)(opened.descriptor)
            request.done()

        self.turns.take(request, work)

    def flush(self, request: Request, handle: int, lock_owner: int) -> None:
        self._let_go(request, self.table.handle(handle), lock_owner)

    def release(self, request: Request, handle: int) -> None:
        self.close(handle)
        request.done()

    def close(self, number: int) -> None:
        handle = self.table.closed(number)
        self._closed(handle)
        os.close(handle.descriptor)

    # --- directories ---------------------------------------------------------------------------------

    def readdir(self, request: Request, handle: int, offset: int, room: int) -> None:
        opened = self.table.handle(handle)

        def work() -> None:
            if offset == 0 or opened.rows is None:
                opened.rows = self._rows(opened)
            request.entries(fitting_rows(opened.rows, offset, room), offset, room)

        self.turns.take(request, work)

    def _rows(self, handle: LocalHandle) -> Rows:
        here = shown(os.fstat(handle.descriptor), self.owner)
        place = handle.node.place
        try:
            if place.above is None:
                above = self._desk.view.node(place.home)
            else:
                with self.reached(place.above) as descriptor:
                    above = self.node(descriptor)
        except OSError:  # it has no name any more
            above = here
        return [(b".", here), (b"..", above), *listed(handle.descriptor)]

    def beside(self, inode_id: bytes, rows: Rows) -> Rows:
        """The entries of a replicated directory with what is local in it: that hides what has the same name."""
        try:
            with self.ground.root(inode_id) as root:
                readable = os.open(through(root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return rows
        try:
            own = listed(readable)
        finally:
            os.close(readable)
        return [*rows[:2], *sorted({**dict(rows[2:]), **dict(own)}.items())]


def through(descriptor: int) -> bytes:
    """A path that leads to what the descriptor stands for, and nowhere else."""
    return b"/proc/self/fd/%d" % descriptor


def listed(descriptor: int) -> Rows:
    """Every entry, bytewise sorted (WS-16)."""
    found: Rows = []
    with os.scandir(descriptor) as entries:
        for entry in entries:
            kind = KIND_SYMLINK if entry.is_symlink() else KIND_DIRECTORY if entry.is_dir() else KIND_FILE
            found.append((os.fsencode(entry.name), Listed(b"", entry.inode() | LOCAL_BIT, kind)))
    found.sort(key=lambda row: row[0])
    return found


def _read_fully(descriptor: int, offset: int, size: int) -> bytes:
    """Fewer bytes only at the end of the file."""
    content = os.pread(descriptor, size, offset)
    while 0 < len(content) < size:
        more = os.pread(descriptor, size - len(content), offset + len(content))
        if not more:
            break
        content += more
    return content
