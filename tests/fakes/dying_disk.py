"""A disk whose process dies before its nth write, sync, rename or removal; `PowerCutDisk.cut` then takes the rest."""

from __future__ import annotations

from typing import Any

from tests.fakes.power_cut_disk import PowerCutDisk

FOREVER = 1 << 40
_COUNTED = frozenset({"pwrite", "fsync", "fdatasync", "truncate"})


class Died(Exception):
    pass


class DyingFile:
    def __init__(self, disk: DyingDisk, file: object) -> None:
        self._disk, self._file = disk, file

    def __getattr__(self, name: str) -> Any:
        if name in _COUNTED:
            self._disk.count()
        return getattr(self._file, name)


class DyingDisk(PowerCutDisk):
    """`left`: how many more it lives for."""

    def __init__(self) -> None:
        super().__init__()
        self.left = FOREVER

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Died

    def open(self, path: str, *, create: bool = False) -> Any:
        if create:
            self.count()
        return DyingFile(self, super().open(path, create=create))

    def rename(self, source: str, target: str) -> None:
        self.count()
        super().rename(source, target)
        if source in self.synced:
            self.synced[target] = self.synced[source]
            self.written.add(target)

    def unlink(self, path: str) -> None:
        self.count()
        super().unlink(path)

    def fsync_dir(self, path: str) -> None:
        self.count()
        super().fsync_dir(path)
