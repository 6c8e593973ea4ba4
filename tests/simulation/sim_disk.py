"""A disk in memory that loses what was not synced: the `Disk` of every simulation.

Owns: files, directories, what of them is durable, and the faults: power cuts, failing syncs, a full disk, bit flips.
Never: reads a clock, or draws from anything but the `random.Random` it was given.
The model:
- A written sector (512 bytes) that was not synced is, after a crash, any of its versions since the last sync; sectors
  are independent, so a long write may be torn anywhere. A size that was not synced is the old one or any later one.
- Directory operations (create, rename, unlink) come true in the order they were done, up to a random one, unless
  fsync_dir came in between. Syncing a file does not sync its name.
- A failed sync leaves the pages clean and undurable, as Linux does: they can be read until the crash, and no later
  sync writes them unless they are written again.
- Every write, sync and directory operation has a number; `cut_power_at(n)` raises `PowerCut` instead of the n-th.
"""

from __future__ import annotations

import errno
import posixpath
import random
from dataclasses import dataclass, field

from tests.simulation.sim_inode import SECTOR_BYTES, SimInode, resize

__all__ = ["SECTOR_BYTES", "Operation", "PowerCut", "SimDisk", "SimFile"]


class PowerCut(BaseException):
    """The machine stopped before the operation. BaseException: no product code may catch it and go on."""


@dataclass(slots=True, eq=False)
class _Directory:
    entries: dict[str, _Node] = field(default_factory=dict)
    durable: dict[str, _Node] = field(default_factory=dict)


_Node = SimInode | _Directory
_Effect = tuple[_Directory, str, "_Node | None"]  # the name comes to mean the node; None: nothing


@dataclass(frozen=True, slots=True)
class Operation:
    """One numbered operation, for tests that look at the order of things."""

    number: int
    name: str  # pwrite, truncate, fdatasync, fsync, create, rename, unlink, fsync_dir
    path: str
    offset: int = 0
    size_bytes: int = 0


class SimFile:
    """`File`. Dead after a crash of its disk."""

    def __init__(self, disk: SimDisk, node: SimInode, epoch: int) -> None:
        self._disk = disk
        self._node = node
        self._epoch = epoch
        self._closed = False

    def _check_open(self) -> None:
        if self._closed or self._epoch != self._disk.epoch:
            raise OSError(errno.EBADF, f"{self._node.path} was closed, or opened before the crash")

    def pread(self, size_bytes: int, offset: int) -> bytes:
        self._check_open()
        return bytes(self._node.content[offset : offset + size_bytes])

    def pwrite(self, data: bytes, offset: int) -> None:
        self._check_open()
        self._disk.step("pwrite", self._node.path, offset, len(data))
        end = offset + len(data)
        self._disk.require_room(max(0, end - len(self._node.content)))
        if end > len(self._node.content):
            resize(self._node.content, end)
            self._node.sizes.append(end)
        self._node.content[offset:end] = data
        self._node.note(offset, len(data))

    def fdatasync(self) -> None:
        self._sync("fdatasync")

    def fsync(self) -> None:
        self._sync("fsync")

    def _sync(self, name: str) -> None:
        self._check_open()
        self._disk.step(name, self._node.path)
        failure = self._disk.take_sync_failure(self._node.path)
        if failure:
            self._node.forget()
            raise OSError(failure, f"{name} of {self._node.path} failed")
        self._node.make_durable()

    def size(self) -> int:
        self._check_open()
        return len(self._node.content)

    def truncate(self, size_bytes: int) -> None:
        self._check_open()
        self._disk.step("truncate", self._node.path, size_bytes)
        self._disk.require_room(max(0, size_bytes - len(self._node.content)))
        resize(self._node.content, size_bytes)
        self._node.sizes.append(size_bytes)
        if size_bytes % SECTOR_BYTES:
            self._node.note(size_bytes - 1, 1)

    def close(self) -> None:
        self._closed = True


class SimDisk:
    """`Disk`. `capacity_bytes` None means boundless."""

    def __init__(self, rng: random.Random, capacity_bytes: int | None = None) -> None:
        self._rng = rng
        self._root = _Directory()
        self._pending: list[tuple[_Effect, ...]] = []  # directory operations that are not durable, in order
        self._capacity_bytes = capacity_bytes
        self._cut_at: int | None = None
        self._sync_failures: list[tuple[str, int]] = []
        self._sync_failure_at = (0, 0)
        self._sync_count = 0
        self.operations: list[Operation] = []
        self.operation_count = 0
        self.epoch = 0
        self.recording = False

    # --- faults and observation -----------------------------------------------------------------

    def cut_power_at(self, number: int | None) -> None:
        """The `number`-th operation from now (1 is the next) raises PowerCut and does nothing; None: never."""
        self._cut_at = None if number is None else self.operation_count + number

    def fail_next_sync(self, path_part: str = "", code: int = errno.EIO) -> None:
        """The next sync of a file or directory whose path contains `path_part` fails with `code`."""
        self._sync_failures.append((path_part, code))

    def fail_sync_at(self, number: int, code: int = errno.EIO) -> None:
        """The `number`-th sync from now (1 is the next), of whatever file or directory, fails with `code`."""
        self._sync_failure_at = (self._sync_count + number, code)

    def set_capacity(self, capacity_bytes: int | None) -> None:
        self._capacity_bytes = capacity_bytes

    def flip_bit(self, path: str, offset: int, bit: int) -> None:
        """Bit rot: at once on the platter and in what is read."""
        node = self._file(path)
        for content in (node.content, node.durable):
            if offset < len(content):
                content[offset] ^= 1 << bit

    def put(self, path: str, content: bytes) -> None:
        """Places a durable file, or replaces one, at once: a disk that comes with something on it."""
        directory, name = self._parent(path)
        directory.entries[name] = directory.durable[name] = SimInode(path, bytearray(content), bytearray(content))

    def crash(self) -> None:
        """Power is lost and comes back: undecided bytes are decided, open files are dead."""
        self.epoch += 1
        self._cut_at = None
        self._sync_failures.clear()
        self._sync_failure_at = (0, 0)
        kept = self._rng.randint(0, len(self._pending))
        for effects in self._pending[:kept]:
            _commit(effects)
        self._pending.clear()
        self._settle(self._root, set())

    def _settle(self, directory: _Directory, seen: set[int]) -> None:
        directory.entries = dict(sorted(directory.durable.items()))
        for node in directory.entries.values():
            if id(node) in seen:
                continue  # two names of one file: it is settled once
            seen.add(id(node))
            if isinstance(node, _Directory):
                self._settle(node, seen)
            else:
                node.crash(self._rng)

    def step(self, name: str, path: str, offset: int = 0, size_bytes: int = 0) -> None:
        """Numbers an operation. For SimFile; not part of `Disk`."""
        if self._cut_at is not None and self.operation_count + 1 >= self._cut_at:
            raise PowerCut(f"before operation {self.operation_count + 1}: {name} {path}")
        self.operation_count += 1
        if self.recording:
            self.operations.append(Operation(self.operation_count, name, path, offset, size_bytes))

    def take_sync_failure(self, path: str) -> int:
        """The error that this sync must fail with, or 0."""
        self._sync_count += 1
        if self._sync_count == self._sync_failure_at[0]:
            return self._sync_failure_at[1]
        for at, (part, code) in enumerate(self._sync_failures):
            if part in path:
                del self._sync_failures[at]
                return code
        return 0

    def require_room(self, grown_bytes: int) -> None:
        if grown_bytes and self._capacity_bytes is not None and self._used_bytes() + grown_bytes > self._capacity_bytes:
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")

    def _used_bytes(self) -> int:
        total, seen, left = 0, set(), [self._root]
        while left:
            for node in left.pop().entries.values():
                if isinstance(node, _Directory):
                    left.append(node)
                elif id(node) not in seen:
                    seen.add(id(node))
                    total += len(node.content)
        return total

    # --- Disk -------------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> SimFile:
        directory, name = self._parent(path)
        node = directory.entries.get(name)
        if create:
            if node is not None:
                raise FileExistsError(errno.EEXIST, "the file exists", path)
            self.step("create", path)
            self.require_room(1)
            node = SimInode(path)
            self._change((directory, name, node))
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        if isinstance(node, _Directory):
            raise IsADirectoryError(errno.EISDIR, "a directory", path)
        return SimFile(self, node, self.epoch)

    def exists(self, path: str) -> bool:
        try:
            self._node(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def listdir(self, path: str) -> list[str]:
        return sorted(self._directory(path).entries)

    def mkdir(self, path: str) -> None:
        directory = self._root
        at = ""
        for part in _parts(path):
            at = f"{at}/{part}"
            node = directory.entries.get(part)
            if node is None:
                self.step("mkdir", at)
                node = _Directory()
                self._change((directory, part, node))
                self._commit_directory(directory)
            if not isinstance(node, _Directory):
                raise FileExistsError(errno.EEXIST, "a file is in the way", at)
            directory = node

    def rename(self, source: str, target: str) -> None:
        source_directory, source_name = self._parent(source)
        target_directory, target_name = self._parent(target)
        node = self._node(source)
        over = target_directory.entries.get(target_name)
        if isinstance(over, _Directory):
            if not isinstance(node, _Directory):
                raise IsADirectoryError(errno.EISDIR, "a directory is in the way", target)
            if over.entries:
                raise OSError(errno.ENOTEMPTY, "the directory is not empty", target)
        elif over is not None and isinstance(node, _Directory):
            raise NotADirectoryError(errno.ENOTDIR, "a file is in the way", target)
        self.step("rename", target)
        if isinstance(node, SimInode):
            node.path = target
        if over is not node:
            self._change((source_directory, source_name, None), (target_directory, target_name, node))

    def unlink(self, path: str) -> None:
        directory, name = self._parent(path)
        if isinstance(self._node(path), _Directory):
            raise IsADirectoryError(errno.EISDIR, "a directory", path)
        self.step("unlink", path)
        self._change((directory, name, None))

    def fsync_dir(self, path: str) -> None:
        directory = self._directory(path)
        self.step("fsync_dir", path)
        failure = self.take_sync_failure(path)
        if failure:
            raise OSError(failure, f"fsync of directory {path} failed")
        self._commit_directory(directory)

    def free_bytes(self, path: str) -> int:
        self._directory(path)
        if self._capacity_bytes is None:
            return 1 << 50
        return max(0, self._capacity_bytes - self._used_bytes())

    # --- names ------------------------------------------------------------------------------------

    def _change(self, *effects: _Effect) -> None:
        for directory, name, node in effects:
            if node is None:
                directory.entries.pop(name, None)
            else:
                directory.entries[name] = node
        self._pending.append(effects)

    def _commit_directory(self, directory: _Directory) -> None:
        """Everything pending in `directory`, and what had to come before it in other directories."""
        wanted = {id(directory)}
        commit: list[tuple[_Effect, ...]] = []
        rest: list[tuple[_Effect, ...]] = []
        for effects in reversed(self._pending):
            touched = {id(effect[0]) for effect in effects}
            if touched & wanted:
                wanted |= touched
                commit.append(effects)
            else:
                rest.append(effects)
        for effects in reversed(commit):
            _commit(effects)
        self._pending = rest[::-1]

    def _node(self, path: str) -> _Node:
        node: _Node = self._root
        for part in _parts(path):
            if not isinstance(node, _Directory):
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
            found = node.entries.get(part)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "no such file or directory", path)
            node = found
        return node

    def _file(self, path: str) -> SimInode:
        node = self._node(path)
        if isinstance(node, _Directory):
            raise IsADirectoryError(errno.EISDIR, "a directory", path)
        return node

    def _directory(self, path: str) -> _Directory:
        node = self._node(path)
        if not isinstance(node, _Directory):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
        return node

    def _parent(self, path: str) -> tuple[_Directory, str]:
        return self._directory(posixpath.dirname(path)), posixpath.basename(path)


def _commit(effects: tuple[_Effect, ...]) -> None:
    for directory, name, node in effects:
        if node is None:
            directory.durable.pop(name, None)
        else:
            directory.durable[name] = node


def _parts(path: str) -> list[str]:
    if not path.startswith("/"):
        raise ValueError(f"path {path!r} is not absolute")
    return [part for part in path.split("/") if part]
