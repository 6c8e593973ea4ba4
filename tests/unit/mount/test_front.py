"""What the kernel is told as operations are applied (WS-62): the front over a real live tree, without a kernel."""

from __future__ import annotations

import errno
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blake3 import blake3

pytest.importorskip("hypercluster.mount.libfuse", reason="libfuse 3 is not installed", exc_type=OSError)

from hypercluster.client.live.ports import ROOT_ID, LiveTree
from hypercluster.mount.content import READS_HERE_MAX
from hypercluster.mount.front import ATTRIBUTES_ONLY, Front
from hypercluster.mount.libfuse import ROOT_NODE
from hypercluster.mount.local.ground import Ground
from hypercluster.mount.local.patterns import PatternsInForce
from hypercluster.mount.virtual import CONTROL, STATUS, WHY
from tests.fakes.site_node import SiteNode
from tests.fakes.waiting import eventually
from tests.unit.client.live.trees import create, following, founded, mkdir, write
from tests.unit.workspace import ops


def front_of(live: LiveTree, state: Path, **about: object) -> Front:
    async def no_patterns() -> bytes:
        return b""

    ground = Ground(str(state / "local"), (live.view.uid, live.view.gid))
    patterns = PatternsInForce(state / "local-patterns", live.view, no_patterns)
    return Front(live, "/srv/demo", locks=None, about=about, ground=ground, patterns=patterns)


Told = list[tuple[int, int, int, int]]  # node, offset, length, and applied_index at that time


@pytest.fixture
async def node() -> AsyncIterator[SiteNode]:
    async with SiteNode(founded()) as running:
        yield running


@pytest.mark.req("WS-62")
async def test_the_kernel_forgets_before_the_index_passes(node: SiteNode, tmp_path: Path) -> None:
    async with following(node, tmp_path / "a") as tree:
        front = front_of(tree, tmp_path)
        told: Told = []
        front.invalidate = lambda *what: told.append((*what, tree.view.applied_index))
        file = tree.view.node(await create(tree, b"f"))
        assert [what[0] for what in told] == [ROOT_NODE]  # the kernel knows the root and nothing else
        front.desk.nodes.looked_up(file)
        told.clear()
        node.site.one(ops.write(file.inode_id, 7, b"from another host"))
        index = node.site.header.log_index
        await node.tell()
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
        front = front_of(tree, tmp_path)
        before = tree.view.applied_index

        def fail(_node: int, _offset: int, _length: int) -> None:
            raise OSError(errno.EIO, "the kernel does not forget what it has cached")

        front.invalidate = fail
        node.site.file(b"f")
        await node.tell()
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
        front = front_of(tree, tmp_path, directory="/srv/demo")
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


@pytest.mark.req("WS-62")
async def test_pages_are_dropped_while_a_read_waits_for_what_is_not_applied_yet(tmp_path: Path) -> None:
    """The kernel drops a page once the read that fills it is answered. That read wants a chunk no node has any more, so
    it waits for the tree that does not need it: first the write whose page is to be dropped, then another one."""
    site = founded()
    inode_id, content = site.file(b"f"), b"content" * 3_000
    site.done(ops.chunk_put(content))
    site.done(ops.write_pieces(inode_id, 0, [(blake3(content).digest(), 0, len(content))]))
    async with SiteNode(site) as node:
        node.absent = set(site.chunks)
        async with following(node, tmp_path / "a") as tree:
            front = front_of(tree, tmp_path)
            handle = front.desk.handles.open(tree.hold(inode_id).inode_id, cached=True)
            front.desk.nodes.looked_up(tree.view.node(inode_id))
            request, dropped = Answered(), threading.Event()

            def drop(_node: int, offset: int, _length: int) -> None:
                if offset != ATTRIBUTES_ONLY:
                    assert request.came.wait(20.0)
                    dropped.set()

            front.invalidate = drop
            site.one(ops.write(inode_id, 0, b"n"))
            await node.tell()
            await eventually(lambda: tree.view.root == site.header.root, "the write is visible, its page not dropped")
            node.mute = True
            site.one(ops.truncate(inode_id, 1))
            reader = threading.Thread(target=front.content.read, args=(request, handle.number, 0, 5))
            reader.start()
            await eventually(lambda: node.confirmed == site.header.log_index, "the read knows what to wait for")
            node.mute = False
            await node.tell()
            await eventually(lambda: bool(request.answers), "the read has its bytes")
            await eventually(dropped.is_set, "and the page is gone")
            await eventually(lambda: tree.view.applied_index == site.header.log_index, "all of it is published")
            assert request.answers == [b"n"] and not tree.view.read_only_reason
            reader.join()
            front.content.release(Released(), handle.number)
            await front.close()


class Answered:
    """Stands where the kernel would: a request whose answer is kept."""

    def __init__(self) -> None:
        self.answers: list[bytes | int] = []
        self.came = threading.Event()

    @property
    def answered(self) -> bool:
        return bool(self.answers)

    def content(self, content: bytes) -> None:
        self.answers.append(content)
        self.came.set()

    def error(self, number: int) -> None:
        self.answers.append(number)
        self.came.set()


@pytest.mark.req("WS-65")
async def test_reads_that_wait_leave_threads_for_everything_else(tmp_path: Path) -> None:
    """Their bytes are on no node for now; each request is brought by a thread, as the kernel's are."""
    site = founded()
    inode_id, content = site.file(b"f"), b"content" * 3_000
    site.done(ops.chunk_put(content))
    site.done(ops.write_pieces(inode_id, 0, [(blake3(content).digest(), 0, len(content))]))
    async with SiteNode(site) as node:
        node.absent = set(site.chunks)
        async with following(node, tmp_path / "a") as tree:
            front = front_of(tree, tmp_path)
            tree.hold(inode_id)
            handle = front.desk.handles.open(inode_id, cached=True)
            requests = [Answered() for _ in range(READS_HERE_MAX + 10)]
            threads = [
                threading.Thread(target=front.content.read, args=(request, handle.number, 0, 100))
                for request in requests
            ]
            for thread in threads:
                thread.start()
            stuck = [thread for thread in threads if thread.is_alive()]
            await eventually(lambda: sum(t.is_alive() for t in threads) == READS_HERE_MAX, "the others are free")
            assert len(stuck) >= READS_HERE_MAX and not any(request.answers for request in requests)
            node.absent = set()
            await eventually(lambda: all(request.answers for request in requests), "every one is answered", 30.0)
            assert {request.answers[0] for request in requests} == {content[:100]}
            front.content.release(Released(), handle.number)
            await front.close()


class Released:
    def done(self) -> None:
        pass
