"""Replacing the state directory by a checkpoint: a written plan of steps that may be repeated.

Owns: `InstallPaths`, the plan file, and its execution, now or after a restart.
Never: opens a database.
Invariants: without a plan file the old state is whole and in place. With one, the steps lead to the new state from
wherever a crash left them; the old directory keeps its bytes until the new one is in its place. So a restart at any
moment finds the old or the new, never a mixture (CL-8). Nothing is applied between a plan and its removal.
Steps: 1. the staged checkpoint moves to checkpoints/ID; 2. state.new is made of links to it; 3. state moves to
state.old; 4. state.new moves to state; 5. state.old is removed; 6. the plan is removed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Final

import google_crc32c

from hypercluster.errors import DamagedError, WrongDirectoryError, check
from hypercluster.storage import checkpoint_manifest
from hypercluster.storage.checkpoint_manifest import CHECKPOINT_ID, MANIFEST_NAME, Manifest
from hypercluster.storage.rocks_errors import RESEED
from hypercluster.storage.tree import DirectoryTree

PLAN_VERSION: Final = 1
LINKED_SUFFIXES: Final = (".sst", ".blob")  # RocksDB never changes these in place


@dataclass(frozen=True, slots=True)
class InstallPaths:
    """Where things lie in a data directory."""

    data: str

    @property
    def state(self) -> str:
        return os.path.join(self.data, "state")

    @property
    def state_new(self) -> str:
        return os.path.join(self.data, "state.new")

    @property
    def state_old(self) -> str:
        return os.path.join(self.data, "state.old")

    @property
    def plan(self) -> str:
        return os.path.join(self.data, "install.plan")

    @property
    def staging(self) -> str:
        return os.path.join(self.data, "staging")

    @property
    def checkpoints(self) -> str:
        return os.path.join(self.data, "checkpoints")

    @property
    def chunks(self) -> str:
        return os.path.join(self.data, "chunks")

    def checkpoint(self, checkpoint_id: str) -> str:
        check(CHECKPOINT_ID.match(checkpoint_id) is not None, "a checkpoint id is two hexadecimal numbers")
        return os.path.join(self.checkpoints, checkpoint_id)

    def discarded(self, checkpoint_id: str) -> str:
        """Where a checkpoint goes to be removed."""
        check(CHECKPOINT_ID.match(checkpoint_id) is not None, "a checkpoint id is two hexadecimal numbers")
        return os.path.join(self.staging, f"discard-{checkpoint_id}")

    def staged(self, checkpoint_id: str) -> str:
        check(CHECKPOINT_ID.match(checkpoint_id) is not None, "a checkpoint id is two hexadecimal numbers")
        return os.path.join(self.staging, f"receive-{checkpoint_id}")


def read_manifest(directory: str) -> Manifest:
    """Of a checkpoint directory. DamagedError names the file and what mends it."""
    path = os.path.join(directory, MANIFEST_NAME)
    try:
        with open(path, "rb") as file:
            raw = file.read(checkpoint_manifest.MANIFEST_BYTES_MAX + checkpoint_manifest.HEADER.size + 1)
    except OSError as error:
        raise DamagedError(
            f"{path} can not be read: {error}. Remove that directory: a start without it works, or says what to do"
        ) from error
    try:
        return checkpoint_manifest.decode(raw, path)
    except DamagedError as error:
        raise DamagedError(f"{error}. Remove that directory: a start without it works, or says what to do") from error


def write_plan(tree: DirectoryTree, paths: InstallPaths, checkpoint_id: str) -> None:
    """From here on the checkpoint is the state. It must be verified, synced, and staged."""
    body = json.dumps({"checkpoint_id": checkpoint_id, "version": PLAN_VERSION}, sort_keys=True).encode()
    tree.write_file(paths.plan, google_crc32c.value(body).to_bytes(4, "big") + body)


def read_plan(paths: InstallPaths) -> str | None:
    """The checkpoint id of an unfinished install, or None."""
    try:
        with open(paths.plan, "rb") as file:
            raw = file.read(4096)
    except FileNotFoundError:
        return None
    body = raw[4:]
    if google_crc32c.value(body).to_bytes(4, "big") != raw[:4]:
        raise DamagedError(f"{paths.plan} fails its checksum. {RESEED}")
    plan = json.loads(body)
    if plan["version"] > PLAN_VERSION:
        raise WrongDirectoryError(f"{paths.plan} was written by a newer version: start that version")
    return str(plan["checkpoint_id"])


def carry_out(tree: DirectoryTree, paths: InstallPaths) -> str | None:
    """Does what is left of a plan. Answers the id of the checkpoint that is the state now, None without a plan."""
    checkpoint_id = read_plan(paths)
    if checkpoint_id is None:
        return None
    staged, kept = paths.staged(checkpoint_id), paths.checkpoint(checkpoint_id)
    if os.path.isdir(staged):
        tree.discard_tree(kept, paths.discarded(checkpoint_id))  # an equal one: the staged one is verified
        tree.make_directory(paths.checkpoints)
        tree.rename(staged, kept)
    in_place = os.path.isdir(paths.state) and os.path.isdir(paths.state_old)
    if not in_place:  # with both there, step 4 is done: only clearing up is left
        if os.path.isdir(paths.state):
            _make_new_state(tree, paths, kept)
            tree.rename(paths.state, paths.state_old)
        elif not os.path.isdir(paths.state_old):  # a node that joins has no old state
            _make_new_state(tree, paths, kept)
        tree.rename(paths.state_new, paths.state)
    tree.remove_tree(paths.state_old)
    tree.unlink(paths.plan)
    return checkpoint_id


def _make_new_state(tree: DirectoryTree, paths: InstallPaths, checkpoint: str) -> None:
    manifest = read_manifest(checkpoint)
    tree.remove_tree(paths.state_new)
    tree.make_directory(paths.state_new)
    for file in manifest.files:
        source, target = os.path.join(checkpoint, file.name), os.path.join(paths.state_new, file.name)
        if file.name.endswith(LINKED_SUFFIXES):
            tree.link(source, target)
        else:
            tree.copy(source, target, file.size_bytes)
    tree.sync_directory(paths.state_new)
