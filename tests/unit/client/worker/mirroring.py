"""A mirror of a random tree, driven as the worker drives one, and held against what the tree says (WS-1, WS-55).

Owns: `Mirroring`, and the two readings it compares: `expected` from the node's own store with its queries, `actual`
from the disk. Never: crashes; whoever wants that puts it around.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypercluster.client.worker.applying import Applier
from hypercluster.client.worker.mirror import Mirror
from hypercluster.client.worker.rebuild import Rebuild
from hypercluster.client.worker.verify import verify
from hypercluster.state_machine.workspace.queries import list_directory, read_inode, read_xattrs
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, KIND_SYMLINK, ROOT_ID
from hypercluster.state_machine.workspace.transfer import export_records
from tests.unit.client.worker.random_tree import RandomTree

HISTORY = b"history---------"


async def inline(call: Callable[[], Any]) -> Any:
    return call()


class Mirroring:
    """A mirror of a random tree's site, as the worker drives one."""

    def __init__(self, tree: RandomTree, base: Path, draw: random.Random | None = None) -> None:
        """`draw` chooses how much is taken at a time; without one, what draws the tree does."""
        self.tree = tree
        self.draw = draw or tree.draw
        self.base = base
        self.top = str(base / "mirror")
        self.open()

    def open(self) -> None:
        self.mirror = Mirror(self.top, str(self.base / "state"), self.tree.site.workspace_id)
        self.applier = Applier(self.mirror, self.fetch, inline)

    def kill(self) -> None:
        self.mirror.store.roll_back()
        self.mirror.close()

    async def fetch(self, hashes: list[bytes]) -> dict[bytes, bytes]:
        return {h: self.tree.site.chunks[h] for h in hashes}

    async def bootstrap(self) -> None:
        site = self.tree.site
        rebuild = Rebuild(self.mirror)
        rebuild.begin(HISTORY)
        rebuild.add((int(c.family), c.key, c.value or b"") for c in export_records(site.store, site.workspace_id))
        rebuild.check(site.header.log_index, site.header.root)
        await self.applier.build(rebuild)

    async def follow(self, batch_max: int) -> None:
        applied = self.mirror.applied_index
        records = [r for r in self.tree.records() if r.log_index > applied]
        while records:
            count = self.draw.randrange(1, batch_max + 1)
            batch = await self.applier.apply(records[:count])
            assert not batch.problem, batch.problem
            records = records[count:]

    async def recover(self) -> None:
        if self.mirror.is_of(HISTORY):
            await self.applier.recover()
        else:
            await self.bootstrap()

    def check(self, note: str) -> None:
        assert actual(os.fsencode(self.top)) == expected(self.tree), note
        assert self.mirror.root() == self.tree.site.header.root, note
        assert self.mirror.applied_index == self.tree.site.header.log_index, note
        verification = verify(os.fsencode(self.top), self.mirror.view)
        for doubt in verification.doubts:
            verification.settle(doubt, self.tree.site.chunks.get(doubt.piece.chunk_hash))
        assert verification.findings == [], note
        for area in ("build", "stash", "trash"):
            assert os.listdir(self.base / "state" / area) == [], note


def expected(tree: RandomTree) -> dict[bytes, Any]:
    site = tree.site
    found: dict[bytes, Any] = {}
    names: dict[bytes, bytes] = {}
    root = read_inode(site.store, site.workspace_id, ROOT_ID)
    assert root is not None
    found[b"."] = ("d", root.mode, root.mtime_ns)
    pending = [(b"", ROOT_ID)]
    while pending:
        base, directory = pending.pop()
        for name, inode in list_directory(site.store, site.workspace_id, directory, b"", 1000).entries:
            path = base + b"/" + name
            if inode.kind == KIND_DIRECTORY:
                found[path] = ("d", inode.mode, inode.mtime_ns)
                pending.append((path, inode.inode_id))
            elif inode.kind == KIND_SYMLINK:
                found[path] = ("l", inode.target, inode.mtime_ns)
            else:
                xattrs = read_xattrs(site.store, site.workspace_id, inode.inode_id)
                content = site.content(inode.inode_id)
                first = names.setdefault(inode.inode_id, path)
                found[path] = ("f", inode.mode, inode.mtime_ns, content, xattrs, inode.nlink, min(first, path))
    return settled_links(found)


def actual(top: bytes) -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    names: dict[int, bytes] = {}
    status = os.lstat(top)
    found[b"."] = ("d", stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    pending = [b""]
    while pending:
        base = pending.pop()
        for name in sorted(os.listdir(top + base)):
            path = base + b"/" + name
            status = os.lstat(top + path)
            if stat.S_ISDIR(status.st_mode):
                found[path] = ("d", stat.S_IMODE(status.st_mode), status.st_mtime_ns)
                pending.append(path)
            elif stat.S_ISLNK(status.st_mode):
                found[path] = ("l", os.readlink(top + path), status.st_mtime_ns)
            else:
                xattrs = [(os.fsencode(n), os.getxattr(top + path, n)) for n in sorted(os.listxattr(top + path))]
                with open(top + path, "rb") as file:
                    content = file.read()
                first = names.setdefault(status.st_ino, path)
                mode = stat.S_IMODE(status.st_mode)
                found[path] = ("f", mode, status.st_mtime_ns, content, xattrs, status.st_nlink, min(first, path))
    return settled_links(found)


def settled_links(found: dict[bytes, Any]) -> dict[bytes, Any]:
    """Names of one file are a group, named by its least path, whatever order they were met in."""
    least: dict[bytes, bytes] = {}
    for path, entry in found.items():
        if entry[0] == "f":
            least[entry[6]] = min(least.get(entry[6], path), path)
    return {p: (*e[:6], least[e[6]]) if e[0] == "f" else e for p, e in found.items()}
