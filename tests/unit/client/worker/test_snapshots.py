"""A snapshot that comes from several nodes, because one after the other stops in the middle (WS-52)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hypercluster.client.nodes import Nodes
from hypercluster.client.settings import ClientSettings
from hypercluster.client.worker import snapshots
from hypercluster.client.worker.snapshots import live_tree, snapshot
from hypercluster.errors import DamagedError, HyperClusterError, NoQuorumError
from hypercluster.pb.v1 import workspace_pb2 as pb
from hypercluster.pb.v1 import workspace_pb2_grpc
from hypercluster.state_machine.store import Change, Family
from hypercluster.state_machine.workspace.transfer import export_records
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.snapshots.pages import read_records
from hypercluster.storage.snapshots.store import SnapshotStore
from tests.unit.storage.test_snapshots import grown_site, write
from tests.unit.workspace.site import Site

Call = grpc.aio.ServicerContext[Any, Any]


class PagedNode(workspace_pb2_grpc.WorkspaceServiceServicer):
    """Hands out one stored snapshot a page at a time, and stops after `pages` of them; None: it goes on to the end."""

    def __init__(self, store: SnapshotStore, site: Site, log_index: int, pages: int | None) -> None:
        self._store, self._site, self._log_index, self._pages = store, site, log_index, pages
        self.asked: list[tuple[int, int]] = []
        self.root = site.header.root
        self._server = grpc.aio.server()
        workspace_pb2_grpc.add_WorkspaceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def __aenter__(self) -> PagedNode:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0.1)

    async def TreeSnapshot(self, request: pb.TreeSnapshotRequest, context: Call) -> AsyncIterator[pb.TreeSnapshotPiece]:
        self.asked.append((request.log_index, request.from_page))
        if self._pages == 0:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this node has none")
        if request.live:
            yield pb.TreeSnapshotPiece(log_index=9, root=self.root, last=True)
            return
        manifest = self._store.newest(self._site.workspace_id)
        assert manifest is not None
        hashes = list(self._store.page_hashes(manifest))
        stop = len(hashes) if self._pages is None else min(len(hashes), request.from_page + self._pages)
        for at in range(request.from_page, stop):
            rows = read_records([self._store.page(hashes[at])])
            yield pb.TreeSnapshotPiece(
                log_index=self._log_index,
                root=self.root,
                records=[pb.TreeRecord(family=family, key=key, value=value) for family, key, value in rows],
                last=at + 1 == len(hashes),
                history_id=manifest.history_id,
                next_page=at + 1,
                manifest=self._store.signed(manifest.workspace_id, manifest.log_index)
                if at == request.from_page
                else None,
            )
        if stop < len(hashes):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "it stops")


@pytest.fixture
def site() -> Site:
    return grown_site(400)


def nodes_of(*nodes: PagedNode) -> Nodes:
    return Nodes(ClientSettings(tuple(node.address for node in nodes)), random.Random(1))


async def received(nodes: Nodes, address: str, site: Site) -> list[Change]:
    found: list[Change] = []
    async for piece in snapshot(nodes, address, site.workspace_id):
        found += [Change(Family(record.family), record.key, record.value) for record in piece.records]
    return found


@pytest.mark.req("WS-52")
async def test_it_goes_on_with_another_node_where_one_stops(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "RESUME_PAUSE_S", 0.0)
    store = SnapshotStore(str(tmp_path / "s"), PosixDisk())
    log_index = write(store, site)
    expected = list(export_records(site.store, site.workspace_id))
    async with (
        PagedNode(store, site, log_index, 3) as first,
        PagedNode(store, site, log_index, 2) as second,
        PagedNode(store, site, log_index, 0) as third,
    ):
        nodes = nodes_of(first, second, third)
        try:
            assert await received(nodes, first.address, site) == expected, "every record once, in order"
        finally:
            await nodes.close()
        assert first.asked[0] == (0, 0)
        assert second.asked[0] == (log_index, 3), "where the first had stopped"
        assert len(second.asked) > 1
    store.close()


@pytest.mark.req("WS-52")
async def test_what_did_not_begin_or_can_not_go_on_is_an_error(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "RESUME_PAUSE_S", 0.0)
    store = SnapshotStore(str(tmp_path / "s"), PosixDisk())
    log_index = write(store, site)
    async with (
        PagedNode(store, site, log_index, 0) as none,
        PagedNode(store, site, log_index, None) as whole,
        PagedNode(store, site, log_index + 1, None) as other,
    ):
        nodes = nodes_of(none, whole, other)
        try:
            with pytest.raises(NoQuorumError):
                await received(nodes, none.address, site)
            assert whole.asked == [], "which node is asked first is the caller's to decide"
            with pytest.raises(DamagedError, match="manifest"):
                await received(nodes, other.address, site)
            whole.root = bytes(32)
            with pytest.raises(DamagedError, match="manifest"):
                await received(nodes, whole.address, site)
            pieces = [piece async for piece in live_tree(nodes, other.address, site.workspace_id)]
            assert [(piece.log_index, piece.last) for piece in pieces] == [(9, True)]
        finally:
            await nodes.close()
    async with PagedNode(store, site, log_index, 1) as slow, PagedNode(store, site, log_index, 0) as none:
        nodes = nodes_of(slow, none)
        try:
            assert len(await received(nodes, slow.address, site)) > 400, "a page at a time, each is progress"
            none.asked.clear()
            slow._pages = 2
            begun = snapshot(nodes, slow.address, site.workspace_id)
            await anext(begun)
            await anext(begun)
            slow._pages = 0
            with pytest.raises(HyperClusterError):
                await anext(begun)
            assert len(none.asked) >= snapshots.RESUMED_MAX // 2
        finally:
            await nodes.close()
    store.close()
