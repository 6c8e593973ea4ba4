"""What the kernel is told as operations are applied (WS-62): the front over a real live tree, without a kernel."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("mfusepy", reason="libfuse 3 is not installed", exc_type=OSError)

from hypercluster.client.live.ports import ROOT_ID
from hypercluster.mount.front import ATTRIBUTES_ONLY, Front
from hypercluster.mount.libfuse import ROOT_NODE
from hypercluster.mount.virtual import CONTROL, STATUS, WHY
from tests.fakes.site_node import SiteNode
from tests.fakes.waiting import eventually
from tests.unit.client.live.trees import create, following, founded, mkdir, write
from tests.unit.workspace import ops

Told = list[tuple[int, int, int, int]]  # node, offset, length, and applied_index at that time


@pytest.fixture
async def node() -> AsyncIterator[SiteNode]:
    async with SiteNode(founded()) as running:
        yield running


@pytest.mark.req("WS-62")
async def test_the_kernel_forgets_before_the_index_passes(node: SiteNode, tmp_path: Path) -> None:
    async with following(node, tmp_path / "a") as tree:
        front = Front(tree, "/srv/demo", locks=None, about={})
        told: Told = []
        front.invalidate = lambda *what: told.append((*what, tree.view.applied_index))
        file = tree.view.node(await create(tree, b"f"))
        assert [what[0] for what in told] == [ROOT_NODE]  # the kernel knows the root and nothing else
        front.desk.nodes.looked_up(file)
        told.clear()
        node.site.one(ops.write(file.inode_id, 7, b"from another host"))
        index = node.site.header.log_index
        await eventually(lambda: tree.view.applied_index == index, "the write is here")
        assert told == [(file.ino, ATTRIBUTES_ONLY, 0, index - 1)]
        handle = front.desk.handles.open(file.inode_id, cached=True)
        told.clear()
        await write(tree, file.inode_id, b"more", 100)
        assert told == [(file.ino, ATTRIBUTES_ONLY, 0, index), (file.ino, 100, 4, index)]
        front.desk.handles.close(handle.number)
        told.clear()
        await mkdir(tree, b"d")
        assert [what[:2] for what in told] == [(ROOT_NODE, ATTRIBUTES_ONLY)]
        await front.close()


@pytest.mark.req("WS-62")
async def test_a_kernel_that_does_not_forget_stops_the_tree(node: SiteNode, tmp_path: Path) -> None:
    async with following(node, tmp_path / "a") as tree:
        front = Front(tree, "/srv/demo", locks=None, about={})
        before = tree.view.applied_index

        def fail(_node: int, _offset: int, _length: int) -> None:
            raise OSError(errno.EIO, "the kernel does not forget what it has cached")

        front.invalidate = fail
        node.site.file(b"f")
        await eventually(lambda: tree.view.read_only_reason, "the tree has stopped")
        assert "does not forget" in tree.view.read_only_reason and tree.view.applied_index == before
        why = front.attributes._virtual.value(tree.view.node(ROOT_ID), WHY)
        assert b"does not forget" in why
        with pytest.raises(OSError) as refused:
            await tree.check_writable()
        assert refused.value.errno == errno.EROFS
        await front.close()


@pytest.mark.req("WS-62", "WS-65")
async def test_a_mount_speaks_of_itself_without_the_cluster(node: SiteNode, tmp_path: Path) -> None:
    async with following(node, tmp_path / "a") as tree:
        front = Front(tree, "/srv/demo", locks=None, about={"directory": "/srv/demo"})
        virtual = front.attributes._virtual
        root = tree.view.node(ROOT_ID)
        node.mute = True
        assert virtual.value(root, WHY) == b""
        assert b'"directory": "/srv/demo"' in virtual.value(root, STATUS)
        assert int(virtual.control()) > 0 and CONTROL not in virtual.names(ROOT_ID)
        front._turned_s -= 10.0  # as if the loop had stood still for so long
        with pytest.raises(OSError, match="does not turn"):
            virtual.control()
        await front.close()
