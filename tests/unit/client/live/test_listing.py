"""Listing a directory: what is on disk, on its way there and in memory, as one moment; and who waits meanwhile."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from hypercluster.client.live.live_tree import LiveWorkspace
from hypercluster.client.live.ports import KIND_DIRECTORY, KIND_FILE, ROOT_ID, Listed
from hypercluster.client.live.tree_lock import TreeLock
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.pb.v1.workspace_command_pb2 import FileCommand
from tests.fakes.site_node import SiteNode
from tests.unit.client.live.trees import ME, create, following, founded, mkdir, place

STEPS = 150
ENTRIES = 1_000


@pytest.mark.req("WS-1")
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_listing_is_what_was_made_and_not_removed(seed: int, tmp_path: Path) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        expected: dict[bytes, tuple[bytes, int]] = {}
        for step in range(STEPS):
            if expected and rng.random() < 0.35:
                name = rng.choice(sorted(expected))
                _, kind = expected.pop(name)
                if kind == KIND_FILE:
                    command = FileCommand(unlink=file_pb.Unlink(place=place(name)))
                else:
                    command = FileCommand(rmdir=file_pb.Rmdir(place=place(name)))
                await tree.mutate(ME, command)
            else:
                name = b"%d" % rng.randrange(40)
                if name not in expected:
                    kind = rng.choice([KIND_FILE, KIND_DIRECTORY])
                    made = await (create(tree, name) if kind == KIND_FILE else mkdir(tree, name))
                    expected[name] = (made, kind)
            if step % 10 == 0:  # between the beginning and the end of a flush, too
                await tree._disk(lambda: _compare_around_a_flush(tree, expected))
            listed = tree.view.list(ROOT_ID)
            _compare(listed, expected)
            for name, found in listed:
                assert tree.view.lookup(ROOT_ID, name).ino == found.ino


def _compare_around_a_flush(tree: LiveWorkspace, expected: dict[bytes, tuple[bytes, int]]) -> None:
    """In the thread that flushes."""
    replica = tree._follower.replica
    with replica.lock:
        began = replica.store.begin_flush()
    if began:
        _compare(tree.view.list(ROOT_ID), expected)
        replica.store.flush()
        _compare(tree.view.list(ROOT_ID), expected)
        with replica.lock:
            replica.store.end_flush()
        _compare(tree.view.list(ROOT_ID), expected)


def _compare(listed: list[tuple[bytes, Listed]], expected: dict[bytes, tuple[bytes, int]]) -> None:
    assert [(name, (found.inode_id, found.kind)) for name, found in listed] == sorted(expected.items())


class MeasuredLock(TreeLock):
    """How much of its thread's time a holder takes."""

    __slots__ = ("began_s", "held_s")

    def __init__(self) -> None:
        super().__init__()
        self.held_s = 0.0

    def __enter__(self) -> None:
        super().__enter__()
        self.began_s = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.held_s += time.thread_time() - self.began_s
        super().__exit__()


async def test_a_large_directory_holds_up_nobody(tmp_path: Path) -> None:
    site = founded()
    for number in range(ENTRIES):
        site.file(b"%06d" % number)
    async with SiteNode(site) as node, following(node, tmp_path / "a") as tree:
        lock = tree._follower.replica.lock = MeasuredLock()
        began_s = time.thread_time()
        assert len(tree.view.list(ROOT_ID)) == ENTRIES
        took_s = time.thread_time() - began_s
        assert lock.held_s < took_s / 10, f"{lock.held_s:.4f} of {took_s:.4f} s"
