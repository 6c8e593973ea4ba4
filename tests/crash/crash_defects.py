"""Defects to build into a process that is killed at a crash point: each must be found by what is checked afterwards.

Each changes this process for good. There is no way from the product to here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from hypercluster.storage import install_plan, quarantine, rocks_database
from hypercluster.storage.disk import Disk, PosixFile
from hypercluster.storage.install_plan import InstallPaths
from hypercluster.storage.rejoin_plan import RejoinDirectory, RejoinPlan
from hypercluster.storage.tree import DirectoryTree


def _writes_late() -> None:
    """What is given to the disk is written when the next is given to it."""
    held: list[tuple[PosixFile, bytes, int]] = []
    write = PosixFile.pwrite

    def late(file: PosixFile, data: bytes, offset: int) -> None:
        for before in held:
            write(*before)
        held[:] = [(file, data, offset)]

    PosixFile.pwrite = late  # type: ignore[method-assign]


def _flushes_some_families() -> None:
    """Not all at once (CL-7)."""
    good_options = rocks_database.database_options

    def options(*arguments: Any) -> Any:
        made = good_options(*arguments)
        made.set_atomic_flush(False)
        return made

    def freeze(database: rocks_database.RocksDatabase) -> None:
        for family in (*database._families[::2], database._database):
            family.flush(wait=True)

    rocks_database.database_options = options
    rocks_database.RocksDatabase.freeze = freeze  # type: ignore[method-assign]


def _forgets_its_plan_early() -> None:
    """The plan of an install goes before its steps are done."""

    def carry_out(tree: DirectoryTree, paths: InstallPaths) -> str | None:
        checkpoint_id = install_plan.read_plan(paths)
        if checkpoint_id is None:
            return None
        tree.unlink(paths.plan)
        tree.rename(paths.staged(checkpoint_id), paths.checkpoint(checkpoint_id))
        tree.rename(paths.state, paths.state_old)
        install_plan._make_new_state(tree, paths, paths.checkpoint(checkpoint_id))
        tree.rename(paths.state_new, paths.state)
        tree.remove_tree(paths.state_old)
        return checkpoint_id

    install_plan.carry_out = carry_out


def _writes_in_place() -> None:
    """A quarantine is written over the one before."""

    def write(disk: Disk, path: str, content: bytes) -> None:
        file = disk.open(path, create=not disk.exists(path))
        file.pwrite(content, 0)
        file.fsync()
        file.close()

    quarantine._write = write


def _deletes_what_was_there() -> None:
    """The old directory is not kept aside."""

    def move_aside(directory: RejoinDirectory, plan: RejoinPlan) -> bool:
        if not directory.is_placed(plan) and os.path.isdir(directory.data):
            os.rename(directory.data, f"{directory.data}.gone-{plan.aside}")
        return True

    RejoinDirectory.move_aside = move_aside  # type: ignore[method-assign]


DEFECTS: Final[Mapping[str, Callable[[], None]]] = {
    "": lambda: None,
    "writes_late": _writes_late,
    "flushes_some_families": _flushes_some_families,
    "forgets_its_plan_early": _forgets_its_plan_early,
    "writes_in_place": _writes_in_place,
    "deletes_what_was_there": _deletes_what_was_there,
}
