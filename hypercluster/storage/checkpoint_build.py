"""Making a checkpoint of the state at one index, beside the running database (CL-8).

Owns: `link_state`, which gathers the files, and `finish`, which hashes, syncs and names them.
Never: runs on the loop; forks; asks RocksDB for its own checkpoint, which would flush newer commits along and hold
the interpreter lock over the syncs.
How it is exact: the state was frozen at the index and no further freeze happens until the files are linked, so
whatever version RocksDB's manifest names meanwhile, compacted or not, holds the state at that index. A compaction
may remove a file between two looks at the directory: the copy is opened and checked, and made again if need be.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from hypercluster.errors import DamagedError, DiskFailedError
from hypercluster.limits import MIB
from hypercluster.storage import checkpoint_manifest
from hypercluster.storage.checkpoint_manifest import FILE_NAME, MANIFEST_NAME, CheckpointFile, Manifest
from hypercluster.storage.install_plan import LINKED_SUFFIXES, InstallPaths, read_manifest
from hypercluster.storage.rocks import Applied, read_applied
from hypercluster.storage.rocks_database import RocksDatabase
from hypercluster.storage.rocks_options import RocksSettings
from hypercluster.storage.tree import DirectoryTree
from hypercluster.values import HistoryId, Membership

ATTEMPTS_MAX: Final = 16
HASH_PIECE_BYTES: Final = MIB
LOOK_SETTINGS: Final = RocksSettings(block_cache_bytes=4 * MIB, background_jobs=1)


class OvertakenError(OSError):
    """The memory was full and had to be flushed before the files were linked: there is no checkpoint this time."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A checkpoint to be made."""

    applied: Applied
    membership: Membership
    history_id: HistoryId

    @property
    def checkpoint_id(self) -> str:
        return checkpoint_manifest.checkpoint_id(self.applied.index, self.applied.term)


def making_path(paths: InstallPaths, wanted: Wanted) -> str:
    return os.path.join(paths.staging, f"make-{wanted.checkpoint_id}")


def link_state(tree: DirectoryTree, paths: InstallPaths, database: RocksDatabase, wanted: Wanted) -> None:
    """Blocks until the frozen state is flushed and its files are gathered under `making_path`."""
    database.wait_frozen()
    target = making_path(paths, wanted)
    trouble: BaseException | None = None
    for _ in range(ATTEMPTS_MAX):
        tree.remove_tree(target)
        tree.make_directory(target)
        try:
            _gather(tree, database.path, target)
            _keep_only_named(target, wanted.applied)
        except (DamagedError, FileNotFoundError) as error:  # a compaction came in between
            trouble = error
        else:
            return
    raise DiskFailedError(f"no consistent copy of {database.path} in {ATTEMPTS_MAX} attempts: {trouble}")


def _gather(tree: DirectoryTree, source: str, target: str) -> None:
    """1. Links every table. 2. Copies the manifest as far as it goes now: it names tables of step 1, or newer ones.
    3. Links those. A table removed in between was not named, or the check that follows fails."""
    _link_tables(tree, source, target)
    with open(os.path.join(source, "CURRENT"), "rb") as file:
        current = file.read(256)
    name = current.decode("ascii", "replace").strip()
    if not FILE_NAME.match(name):
        raise DamagedError(f"{source}/CURRENT names {name!r}")
    path = os.path.join(source, name)
    tree.copy(path, os.path.join(target, name), os.path.getsize(path))
    _link_tables(tree, source, target)
    tree.write_file(os.path.join(target, "CURRENT"), current)


def _link_tables(tree: DirectoryTree, source: str, target: str) -> None:
    have = set(os.listdir(target))
    for name in sorted(os.listdir(source)):
        if name.endswith(LINKED_SUFFIXES) and name not in have:
            try:
                tree.link(os.path.join(source, name), os.path.join(target, name))
            except FileNotFoundError:
                continue  # compacted away since it was listed


def _keep_only_named(target: str, applied: Applied) -> None:
    """Opens the copy, checks that it is the state meant, and removes what its manifest does not name."""
    database = RocksDatabase(target, LOOK_SETTINGS, read_only=True)
    try:
        found, tables = read_applied(database), database.table_files()
    finally:
        database.close()
    if found.index > applied.index:
        raise OvertakenError(f"the state went on to {found.index} before {applied.index} was linked")
    if found != applied:
        raise DamagedError(f"{target} holds index {found.index}, not {applied.index}")
    with open(os.path.join(target, "CURRENT"), encoding="ascii") as file:
        keep = {*tables, "CURRENT", file.read(256).strip()}
    remove_others(target, keep)
    for name, size_bytes in tables.items():
        if os.path.getsize(os.path.join(target, name)) != size_bytes:
            raise DamagedError(f"{target}/{name} has another size than its manifest says")


def remove_others(directory: str, keep: set[str]) -> None:
    """What opening leaves behind (logs, configuration of the binding), and tables of no version."""
    for name in os.listdir(directory):
        if name not in keep:
            os.unlink(os.path.join(directory, name))


def finish(tree: DirectoryTree, paths: InstallPaths, wanted: Wanted, previous: Manifest | None) -> Manifest:
    """Blocks. Hashes (a table known from the previous checkpoint keeps its hash), syncs, renames into place."""
    target = making_path(paths, wanted)
    files: list[CheckpointFile] = []
    for name in sorted(os.listdir(target)):
        path = os.path.join(target, name)
        size_bytes = os.path.getsize(path)
        files.append(CheckpointFile(name, size_bytes, _known_hash(paths, previous, path) or hash_file(path)))
        tree.sync_file(path)
    applied = wanted.applied
    encoded = checkpoint_manifest.encode(
        applied.index,
        applied.term,
        applied.digest,
        wanted.membership,
        applied.last_stamp_ns,
        wanted.history_id,
        tuple(files),
    )
    tree.write_file(os.path.join(target, MANIFEST_NAME), encoded)
    tree.make_directory(paths.checkpoints)
    final = paths.checkpoint(wanted.checkpoint_id)
    tree.discard_tree(final, paths.discarded(wanted.checkpoint_id))
    tree.rename(target, final)
    return read_manifest(final)


def _known_hash(paths: InstallPaths, previous: Manifest | None, path: str) -> str | None:
    """Tables never change, so the same inode has the same hash."""
    name = os.path.basename(path)
    if previous is None or not name.endswith(LINKED_SUFFIXES):
        return None
    for file in previous.files:
        if file.name == name:
            older = os.path.join(paths.checkpoint(previous.meta.checkpoint_id), name)
            try:
                return file.blake3_hex if os.path.samefile(older, path) else None
            except FileNotFoundError:
                return None
    return None


def hash_file(path: str) -> str:
    hasher = blake3()
    with open(path, "rb") as file:
        while piece := file.read(HASH_PIECE_BYTES):
            hasher.update(piece)
    return hasher.hexdigest()
