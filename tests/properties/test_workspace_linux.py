"""The errno model against the real kernel: random names, links, renames, removals and truncations in a directory.

Only what the local filesystem answers alike for every user and filesystem type is compared: errno, what stands where,
link counts of files, sizes and contents. HYPERCLUSTER_SEED=n replays one seed; a failure names it.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.state_machine.workspace.queries import list_directory
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK
from tests.unit.workspace import ops
from tests.unit.workspace.ops import ROOT
from tests.unit.workspace.site import Site

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(8)
STEPS = 350
NAMES = [b"a", b"b", b"c", b"d", b"x" * 255, b"y" * 256]
KINDS = {KIND_FILE: stat.S_IFREG, KIND_DIRECTORY: stat.S_IFDIR, KIND_SYMLINK: stat.S_IFLNK}


class Pair:
    """The same tree in a workspace and in a directory of the local filesystem."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.draw = random.Random(seed)
        self.site = Site(seed=seed)
        self.site.found()
        self.top = os.fsencode(directory)
        self.directories: dict[bytes, bytes] = {b"": ROOT}  # path below the top -> id

    def learn(self) -> dict[bytes, tuple[int, int, int, bytes]]:
        """Every path of the workspace: kind, size, nlink (files only), content; and the directories there are."""
        found: dict[bytes, tuple[int, int, int, bytes]] = {}
        self.directories = {b"": ROOT}
        waiting = [b""]
        while waiting:
            above = waiting.pop()
            listing = list_directory(self.site.store, self.site.workspace_id, self.directories[above], b"", 1_000)
            for name, inode in listing.entries:
                path = above + b"/" + name
                kind, content = KINDS[inode.kind], inode.target
                if inode.kind == KIND_DIRECTORY:
                    self.directories[path] = inode.inode_id
                    waiting.append(path)
                    found[path] = (kind, 0, 0, b"")
                    continue
                if inode.kind == KIND_FILE:
                    content = self.site.content(inode.inode_id)
                found[path] = (kind, inode.size, inode.nlink, content)
        return found

    def local(self) -> dict[bytes, tuple[int, int, int, bytes]]:
        found: dict[bytes, tuple[int, int, int, bytes]] = {}
        for above, directories, files in os.walk(self.top):
            for name in [*directories, *files]:
                path = os.path.join(above, name)
                status = os.lstat(path)
                kind = stat.S_IFMT(status.st_mode)
                content = b""
                if kind == stat.S_IFDIR:
                    found[path[len(self.top) :]] = (kind, 0, 0, b"")
                    continue
                content = os.readlink(path) if kind == stat.S_IFLNK else Path(os.fsdecode(path)).read_bytes()
                found[path[len(self.top) :]] = (kind, status.st_size, status.st_nlink, content)
        return found

    def path(self) -> tuple[bytes, bytes]:
        above = self.draw.choice(sorted(self.directories))
        return above, self.draw.choice(NAMES)

    def id_of(self, path: bytes) -> bytes | None:
        above, _, name = path.rpartition(b"/")
        listing = list_directory(self.site.store, self.site.workspace_id, self.directories[above], b"", 1_000)
        return next((inode.inode_id for found, inode in listing.entries if found == name), None)

    def step(self) -> tuple[Command, Callable[[], object], str]:
        draw, top = self.draw, self.top
        (above, name), (other_above, other_name) = self.path(), self.path()
        directory, other_directory = self.directories[above], self.directories[other_above]
        path, other = above + b"/" + name, other_above + b"/" + other_name
        full, other_full = top + path, top + other
        inode_id = self.id_of(path) or b"?" * 16
        kind = draw.choice(["create", "open", "mkdir", "symlink", "link", "unlink", "rmdir", *["rename"] * 3])
        if kind == "link" and inode_id == b"?" * 16:
            kind = "rename"  # a link's source is named by its id here: there is no name to judge
        if inode_id != b"?" * 16 and stat.S_ISREG(os.lstat(full).st_mode) and draw.random() < 0.5:
            kind = draw.choice(["append", "truncate"])
        match kind:
            case "create":
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
                return ops.create(directory, name), lambda: os.close(os.open(full, flags)), kind
            case "open":
                flags = os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY
                return ops.create(directory, name, exclusive=False), lambda: os.close(os.open(full, flags)), kind
            case "mkdir":
                return ops.mkdir(directory, name), lambda: os.mkdir(full), kind
            case "symlink":
                target = draw.choice([b"a", b"../b", b"/nowhere", b"", b"t" * 4_095, b"t" * 4_096])
                return ops.symlink(directory, name, target), lambda: os.symlink(target, full), kind
            case "link":
                command = ops.link(inode_id, other_directory, other_name)
                return command, lambda: os.link(full, other_full, follow_symlinks=False), f"{kind} {path!r} {other!r}"
            case "unlink":
                return ops.unlink(directory, name), lambda: os.unlink(full), kind
            case "rmdir":
                return ops.rmdir(directory, name), lambda: os.rmdir(full), kind
            case "rename":
                command = ops.rename(directory, name, other_directory, other_name)
                return command, lambda: os.rename(full, other_full), f"{kind} {path!r} {other!r}"
            case "append":
                content = draw.randbytes(draw.choice([1, 100, 5_000]))
                return ops.append(inode_id, content), lambda: append_locally(full, content), kind
            case _:
                size = draw.choice([0, 1, 50, 20_000])
                return ops.truncate(inode_id, size), lambda: os.truncate(full, size), kind


def append_locally(path: bytes, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        assert os.write(descriptor, content) == len(content)
    finally:
        os.close(descriptor)


def errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.mark.req("WS-20", "WS-21")
@pytest.mark.parametrize("seed", SEEDS)
def test_random_operations_end_as_on_the_local_filesystem(seed: int, tmp_path: Path) -> None:
    pair = Pair(seed, tmp_path)
    refusals = 0
    for number in range(STEPS):
        command, call, words = pair.step()
        outcome = pair.site.one(command)
        expected = errno_of(call)
        words = f"seed {seed}, step {number}: {words}: here {outcome.errno}, there {errno.errorcode.get(expected, 0)}"
        assert outcome.errno == expected, words
        refusals += expected != 0
        found = pair.learn()
        if number % 10 == 9:
            assert found == pair.local(), words
    assert refusals > STEPS // 10
