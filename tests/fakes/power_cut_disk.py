"""A real disk that remembers what was synced, so that a power cut can take the rest away."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hypercluster.storage.disk import PosixDisk, PosixFile

ATTEMPTS_MAX = 1_000


def _listing(top: Path) -> list[tuple[str, int]] | None:
    """Names and sizes; None when a file went away meanwhile. Logs of RocksDB grow at any time and hold no state."""
    try:
        return sorted((str(path), path.stat().st_size) for path in top.rglob("*") if path.name != "LOG")
    except FileNotFoundError:
        return None


class TrackedFile:
    def __init__(self, file: PosixFile, path: str, synced: dict[str, int]) -> None:
        self._file, self._path, self._synced = file, path, synced

    def pread(self, size_bytes: int, offset: int) -> bytes:
        return self._file.pread(size_bytes, offset)

    def pwrite(self, data: bytes, offset: int) -> None:
        self._file.pwrite(data, offset)

    def fdatasync(self) -> None:
        self._synced[self._path] = self._file.size()

    def fsync(self) -> None:
        self.fdatasync()

    def size(self) -> int:
        return self._file.size()

    def truncate(self, size_bytes: int) -> None:
        self._file.truncate(size_bytes)

    def close(self) -> None:
        self._file.close()


class PowerCutDisk(PosixDisk):
    """`cut` copies a tree as a power cut would leave it: files written through here end where they were last
    synced; whatever others wrote (RocksDB syncs for itself) is copied as it is."""

    def __init__(self) -> None:
        self.synced: dict[str, int] = {}
        self.written: set[str] = set()

    def open(self, path: str, *, create: bool = False) -> TrackedFile:  # type: ignore[override]
        file = super().open(path, create=create)
        if path not in self.written:
            self.written.add(path)
            self.synced[path] = 0 if create else file.size()
        return TrackedFile(file, path, self.synced)

    def cut(self, source: Path, target: Path) -> None:
        for _ in range(ATTEMPTS_MAX):
            before = _listing(source)
            try:
                shutil.copytree(source, target)
            except shutil.Error:  # a compaction removed a table meanwhile
                before = None
            if before is not None and before == _listing(source):
                break
            shutil.rmtree(target)
        else:
            raise AssertionError(f"{source} did not keep still")
        for path in self.written:
            copied = target / os.path.relpath(path, source)
            if copied.exists():
                os.truncate(copied, min(self.synced[path], copied.stat().st_size))
