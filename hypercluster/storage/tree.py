"""Directory surgery: links, renames and removals that survive a power cut, one named step at a time.

Owns: `DirectoryTree`, through which checkpoints are made, staged and installed.
Never: decides an order; the callers do, and rely on each step being durable when it says so.
Invariants: every step announces itself to `on_step` before it happens, so that a test can stop a process in front
of each one; `rename` and `write_file` are durable when they return (the file first, then its directory).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

COPY_BYTES: Final = 1024 * 1024


def no_step(_name: str) -> None:
    return


class DirectoryTree:
    """Paths are absolute. OSError passes through."""

    def __init__(self, on_step: Callable[[str], None] = no_step) -> None:
        self._on_step = on_step

    def _step(self, verb: str, path: str) -> None:
        self._on_step(f"{verb} {path}")

    def make_directory(self, path: str) -> None:
        """With parents, each durable."""
        missing: list[str] = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for directory in reversed(missing):
            self._step("mkdir", directory)
            os.mkdir(directory, 0o750)
            self.sync_directory(os.path.dirname(directory))

    def sync_directory(self, path: str) -> None:
        self._step("syncdir", path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_file(self, path: str) -> None:
        self._step("sync", path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def link(self, source: str, target: str) -> None:
        """A second name of an immutable file; not durable before its directory is synced."""
        self._step("link", target)
        os.link(source, target)

    def copy(self, source: str, target: str, size_bytes: int) -> None:
        """The first `size_bytes` of a file that is still being appended to, synced."""
        self._step("copy", target)
        with open(source, "rb") as reading, open(target, "wb") as writing:
            left = size_bytes
            while left > 0 and (piece := reading.read(min(left, COPY_BYTES))):
                writing.write(piece)
                left -= len(piece)
        self.sync_file(target)

    def write_file(self, path: str, content: bytes) -> None:
        """All of it or nothing, by rename; durable."""
        fresh = f"{path}.new"
        self._step("write", fresh)
        with open(fresh, "wb") as file:
            file.write(content)
        self.sync_file(fresh)
        self.rename(fresh, path)

    def rename(self, source: str, target: str) -> None:
        self._step("rename", target)
        os.rename(source, target)
        self.sync_directory(os.path.dirname(target))
        if os.path.dirname(source) != os.path.dirname(target):
            self.sync_directory(os.path.dirname(source))

    def unlink(self, path: str) -> None:
        self._step("unlink", path)
        os.unlink(path)
        self.sync_directory(os.path.dirname(path))

    def remove_tree(self, path: str) -> None:
        """No error when it is not there. Its files go one by one: a kill leaves some of them, so a tree that is read
        at open is moved aside first (`discard_tree`)."""
        if not os.path.isdir(path):
            return
        for directory, _, names in os.walk(path, topdown=False):
            for name in names:
                self._step("remove", os.path.join(directory, name))
                os.unlink(os.path.join(directory, name))
            self._step("remove", directory)
            os.rmdir(directory)
        self.sync_directory(os.path.dirname(path))

    def discard_tree(self, path: str, aside: str) -> None:
        """Removes a tree that must be whole or gone: under the name `aside`, which is cleared at open."""
        if os.path.isdir(path):
            self.remove_tree(aside)
            self.rename(path, aside)
            self.remove_tree(aside)
