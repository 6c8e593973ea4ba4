"""The mirror's directory and what is done to it, one idempotent step at a time (WS-55).

Owns: the mirrored directory, and beside it the state directory with `build` (new files before they get their name),
`stash` (what is on its way from one name to another) and `trash` (what is being deleted).
Never: decides what to do; reads the tree.
Invariants: every step can be run again after a crash in the middle of it; nothing outside the two directories is
written; both lie on one file system, so a rename is one step; a mode that shuts out the owner never stops a step,
and is there again once the plan is done.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hypercluster.client.worker.plan import Discard, Link, MakeDirectory, Place, Stash
from hypercluster.errors import DamagedError, MalformedError
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, KIND_SYMLINK, Inode

AREAS = (b"build", b"stash", b"trash")
OWNER_ALL = 0o700
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes at their place in a file."""

    offset: int
    content: bytes


class MirrorDisk:
    """Paths passed in are relative to the mirror. `report` hears of attributes that can not be set."""

    def __init__(self, top: bytes, state: bytes, report: Callable[[bytes, str], None]) -> None:
        self.top = top
        self._state = state
        self._report = report
        self._is_root = os.geteuid() == 0
        self._owner = (os.geteuid(), os.getegid())

    def prepare(self) -> None:
        """Makes what is missing. Raises MalformedError if the two directories are on different file systems."""
        os.makedirs(self.top, exist_ok=True)
        for area in AREAS:
            os.makedirs(os.path.join(self._state, area), exist_ok=True)
        if os.stat(self.top).st_dev != os.stat(self._state).st_dev:
            raise MalformedError(
                f"{os.fsdecode(self._state)} and {os.fsdecode(self.top)} are on different file systems: "
                "name a state directory beside the mirror with --state"
            )

    def clear_areas(self, areas: Iterable[bytes] = AREAS) -> None:
        """Takes away what earlier runs left."""
        for area in areas:
            base = os.path.join(self._state, area)
            for name in os.listdir(base):
                self._remove_tree(os.path.join(base, name))

    def wipe(self) -> None:
        """Empties the mirror: before it is built anew."""
        for name in os.listdir(self.top):
            self._remove_tree(os.path.join(self.top, name))

    def path(self, relative: bytes) -> bytes:
        return os.path.join(self.top, relative) if relative else self.top

    def in_area(self, area: bytes, inode_id: bytes) -> bytes:
        return os.path.join(self._state, area, inode_id.hex().encode())

    # --- building -----------------------------------------------------------------------------------

    def build_symlink(self, inode: Inode) -> None:
        target = self.in_area(b"build", inode.inode_id)
        _unlink(target)
        os.symlink(inode.target, target)

    def build_file(self, inode: Inode, blocks: Iterable[Block], *, fresh: bool = True) -> None:
        """A new file with these blocks; `fresh` False adds to one begun before."""
        target = self.in_area(b"build", inode.inode_id)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_TRUNC if fresh else 0)
        opened = os.open(target, flags, 0o600)
        try:
            for block in blocks:
                _write_all(opened, block)
            if fresh:
                os.ftruncate(opened, inode.size)
        finally:
            os.close(opened)

    # --- steps of a plan ----------------------------------------------------------------------------

    def detach(self, step: Stash | Discard) -> None:
        path = self.path(step.path)
        if isinstance(step, Stash):
            self._move(path, self.in_area(b"stash", step.inode_id))
        elif step.directory:
            self._move(path, self.in_area(b"trash", step.inode_id))
        else:
            _unlink(path)

    def place(self, step: MakeDirectory | Place) -> None:
        path = self.path(step.path)
        if isinstance(step, MakeDirectory):
            try:
                os.mkdir(path, OWNER_ALL)
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(path).st_mode):
                    raise
            return
        for area in (b"stash", b"build"):
            source = self.in_area(area, step.inode_id)
            try:
                os.rename(source, path)
                return
            except FileNotFoundError:
                if os.path.lexists(source):
                    raise  # it is the directory to place it in that is missing
        if not os.path.lexists(path):
            raise DamagedError(
                f"{os.fsdecode(path)} was to be put in place, and is in neither place: rebuild the mirror"
            )

    def link(self, step: Link) -> None:
        path, existing = self.path(step.path), self.path(step.existing)
        try:
            if os.path.samestat(os.lstat(path), os.lstat(existing)):
                return
        except FileNotFoundError:
            pass
        aside = os.path.join(self._state, b"build", b"link")
        _unlink(aside)
        os.link(existing, aside, follow_symlinks=False)
        os.rename(aside, path)

    def rewrite(self, relative: bytes, size: int, blocks: Iterable[Block], *, resize: bool) -> None:
        """Into the file that is there, in place."""
        path = self.path(relative)
        self._open_up(path)
        opened = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if resize:
                os.ftruncate(opened, size)
            for block in blocks:
                _write_all(opened, block)
        finally:
            os.close(opened)

    def dress(self, path: bytes, inode: Inode, xattrs: list[tuple[bytes, bytes]], *, xattrs_known: bool = True) -> None:
        """Owner, attributes, mode and time, in the order that leaves each as it should be. `path` is absolute."""
        if self._is_root and (inode.uid, inode.gid) != self._owner:
            os.chown(path, inode.uid, inode.gid, follow_symlinks=False)
        if inode.kind != KIND_SYMLINK:
            if xattrs or xattrs_known:
                self._set_xattrs(path, xattrs)
            os.chmod(path, inode.mode)
        else:
            for name, _ in xattrs:
                self._report(path, f"{os.fsdecode(name)}: a symlink has no such attributes here")
        os.utime(path, ns=(inode.mtime_ns, inode.mtime_ns), follow_symlinks=False)

    def _set_xattrs(self, path: bytes, xattrs: list[tuple[bytes, bytes]]) -> None:
        try:
            present = [os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False)]
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            present = []
        wanted = dict(xattrs)
        stale = [name for name in present if name.startswith(b"user.") and name not in wanted]
        if not stale and not wanted:
            return
        self._open_up(path)
        for name in stale:
            os.removexattr(path, name, follow_symlinks=False)
        for name, value in wanted.items():
            try:
                os.setxattr(path, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.ENOSPC, errno.E2BIG, errno.ERANGE):
                    raise
                self._report(path, f"{os.fsdecode(name)}: {error.strerror}")

    def open_up_directories(self, relatives: Iterable[bytes]) -> None:
        """Lets the owner into directories whose mode shuts it out; the plan dresses them again. Not files."""
        for relative in relatives:
            path = self.path(relative)
            if self._needs_own_write(path):
                self._open_up(path)

    def _open_up(self, path: bytes) -> None:
        if self._is_root:
            return
        try:
            mode = stat.S_IMODE(os.lstat(path).st_mode)
        except FileNotFoundError:
            return
        if mode & OWNER_ALL != OWNER_ALL:
            os.chmod(path, mode | OWNER_ALL)

    # --- durability ---------------------------------------------------------------------------------

    def sync(self) -> None:
        """Everything written so far is on disk when this returns: one call for a whole batch. A failure is final,
        because what was dirty may be gone from memory (CL-4)."""
        opened = os.open(self._state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _LIBC.syncfs(opened) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), os.fsdecode(self._state))
        finally:
            os.close(opened)

    # --- helpers of steps ---------------------------------------------------------------------------

    def _move(self, source: bytes, target: bytes) -> None:
        """A source that is gone was moved before the crash."""
        if os.path.lexists(target):
            if not os.path.lexists(source):
                return
            self._remove_tree(target)
        if self._needs_own_write(source):
            self._open_up(source)  # moving a directory rewrites its '..'
        try:
            os.rename(source, target)
        except FileNotFoundError:
            return

    def _needs_own_write(self, path: bytes) -> bool:
        return not self._is_root and os.path.isdir(path) and not os.path.islink(path)

    def _remove_tree(self, path: bytes) -> None:
        if os.path.islink(path) or not os.path.isdir(path):
            _unlink(path)
            return
        if not self._is_root:
            for base, names, _ in os.walk(path):
                self._open_up(base)
                for name in names:
                    self._open_up(os.path.join(base, name))
        shutil.rmtree(path)


def _unlink(path: bytes) -> None:
    """A file, not a directory: a directory of this name was put there after the file went."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return


def _write_all(opened: int, block: Block) -> None:
    view = memoryview(block.content)
    at = block.offset
    while view:
        written = os.pwrite(opened, view, at)
        view = view[written:]
        at += written


def matches_kind(status: os.stat_result, kind: int) -> bool:
    if kind == KIND_DIRECTORY:
        return stat.S_ISDIR(status.st_mode)
    if kind == KIND_SYMLINK:
        return stat.S_ISLNK(status.st_mode)
    return stat.S_ISREG(status.st_mode)
