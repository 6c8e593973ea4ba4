"""A tree that comes anew while records of the one before are still being told (WS-52, WS-62)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hypercluster.client.live.ports import Applied
from tests.fakes.site_node import SiteNode
from tests.fakes.waiting import eventually
from tests.unit.client.live.trees import create, following, founded


@pytest.mark.req("WS-52", "WS-62")
async def test_the_index_does_not_go_back_to_records_of_the_tree_before(tmp_path: Path) -> None:
    held, go_on = asyncio.Event(), asyncio.Event()
    seen: list[tuple[int, int]] = []  # what was published before, and what is told now
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:
        await eventually(lambda: tree.status().state == "live", "it follows")

        async def told(applied: Applied) -> None:
            seen.append((tree.view.applied_index, applied.log_index))
            if applied.log_index == 1 and not applied.everything:
                held.set()
                await go_on.wait()

        tree.on_applied(told)
        for number in range(4):
            node.site.file(b"%d" % number)
        await node.tell()
        await held.wait()
        node.history_id = b"another-history-"
        tree._follower._watching.cancel()  # type: ignore[union-attr]
        await eventually(lambda: tree.view.root == node.site.header.root, "the new tree is here")
        go_on.set()
        await eventually(lambda: tree.view.applied_index == 4, "it is told of as a whole")
        await create(tree, b"after")
        assert tree.view.applied_index == 5
        before = [published for published, _ in seen]
        assert before == sorted(before), seen
        assert tree.status().snapshots == 2


@pytest.mark.req("WS-5", "WS-62")
async def test_what_could_not_be_told_is_told_once_the_failure_is_cleared(tmp_path: Path) -> None:
    broken, told = [True], list[tuple[int, bool]]()
    async with SiteNode(founded()) as node, following(node, tmp_path / "a") as tree:

        def tell(applied: Applied) -> None:
            if broken[0]:
                raise OSError("the kernel keeps it")
            told.append((applied.log_index, applied.everything))

        await eventually(lambda: tree.status().state == "live", "it follows")
        tree.on_applied(tell)
        node.site.file(b"one")
        await node.tell()
        await eventually(lambda: tree.status().state == "stopped", "it stops")
        with pytest.raises(OSError, match="could not be told"):
            await tree.wait_applied(1)
        broken[0] = False
        await tree.clear_failure(rebuild=False)
        await asyncio.wait_for(tree.wait_applied(1), 5)
        assert told[0][0] == 1 and tree.status().read_only_reason == ""
