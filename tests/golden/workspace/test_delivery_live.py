"""The recorded run delivered badly to a live tree: it ends with the recorded root, and takes no wrong byte (WS-64)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hypercluster.client.client import Client
from hypercluster.client.live import following
from hypercluster.client.live.live_tree import LiveWorkspace
from hypercluster.client.live.ports import KIND_FILE, ROOT_ID
from hypercluster.client.settings import ClientSettings
from hypercluster.state_machine.store import Family
from hypercluster.state_machine.workspace.records import INODE, decode_inode
from tests.golden.workspace.test_delivery import CONVERGES_S, SEEDS, recorded
from tests.golden.workspace.test_workspace_golden import VERSIONS
from tests.golden.workspace.unruly_node import UnrulyNode


@pytest.mark.req("WS-64", "WS-1")
@pytest.mark.parametrize("seed", SEEDS)
async def test_shuffled_delivery_converges_and_corrupt_chunks_are_refused(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    print("seed", seed)
    monkeypatch.setattr(following, "PAUSE_S", (0.001, 0.01))
    site, empty, roots = recorded(VERSIONS[-1])
    async with (
        UnrulyNode(site, empty, seed) as node,
        Client(ClientSettings((node.address,))) as client,
        LiveWorkspace(client, site.workspace_id, "golden", "w", tmp_path / "live") as tree,
    ):
        async with asyncio.timeout(CONVERGES_S):
            await tree.wait_applied(site.header.log_index)
        assert tree.view.root.hex() == roots[-1] == site.header.root.hex()
        assert tree.view.read_only_reason == ""
        files = 0
        prefix = site.workspace_id + INODE
        for key, record in site.store.scan(Family.TREE, prefix, prefix + b"\xff" * 17):
            inode = decode_inode(key[len(prefix) :], record)
            if inode.kind == KIND_FILE and inode.nlink:
                files += 1
                content = await asyncio.to_thread(tree.view.read, inode.inode_id, 0, inode.size)
                assert content == site.content(inode.inode_id)
                path = tree.view.path_of(inode.inode_id)
                assert path is not None
                assert tree.view.resolve(path).inode_id == inode.inode_id
        assert files >= 5
        assert tree.view.list(ROOT_ID)
        assert node.watches > 1 and node.out_of_order and node.repeated
        assert node.spoiled, "no chunk was asked for"
