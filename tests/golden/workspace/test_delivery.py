"""A recorded run reaches the same root however badly it is delivered, and no wrong byte is taken (WS-64).

The worker is the real one, with its database and its directory; only the node it listens to is unruly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hypercluster.client.client import Client
from hypercluster.client.settings import ClientSettings
from hypercluster.client.worker import worker as worker_module
from hypercluster.client.worker.worker import Worker
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.state_machine.store import MemoryStore
from tests.golden.workspace.scenario import RUN
from tests.golden.workspace.test_workspace_golden import VERSIONS
from tests.golden.workspace.unruly_node import UnrulyNode
from tests.unit.workspace.site import Site

SEEDS = (1, 2, 3)
CONVERGES_S = 60.0


def recorded(version: str) -> tuple[Site, MemoryStore, list[str]]:
    """The run, the store just after the workspace was made, and every root that was recorded."""
    site = Site(MemoryStore(), seed=1)
    empty: MemoryStore | None = None
    roots: list[str] = []
    for line in (Path(__file__).parent / version / RUN).read_text().splitlines():
        step = json.loads(line)
        outcomes = site.entry(*[Command.FromString(bytes.fromhex(command)) for command in step["commands"]])
        if empty is None:
            site.workspace_id = outcomes[0].inode_id
            assert isinstance(site.store, MemoryStore)
            empty = site.store.copy()
        roots += [root for reason, _, root in step["outcomes"] if reason == 0 and root]
    assert empty is not None
    return site, empty, roots


@contextlib.asynccontextmanager
async def following(node: UnrulyNode, site: Site, directory: Path) -> AsyncIterator[Worker]:
    async with (
        Client(ClientSettings((node.address,))) as client,
        Worker(client, site.workspace_id, "golden", "w", directory) as worker,
    ):
        work = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


@pytest.mark.req("WS-64", "WS-1")
@pytest.mark.parametrize("seed", SEEDS)
async def test_shuffled_delivery_converges_and_corrupt_chunks_are_refused(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    print("seed", seed)
    monkeypatch.setattr(worker_module, "PAUSE_S", (0.001, 0.01))
    site, empty, roots = recorded(VERSIONS[-1])
    async with UnrulyNode(site, empty, seed) as node, following(node, site, tmp_path / "mirror") as worker:
        async with asyncio.timeout(CONVERGES_S):
            await worker.wait_applied(site.header.log_index)
        assert worker.status.root == roots[-1] == site.header.root.hex()
        assert (await worker.verify()).findings == []
        assert worker.status.failure is None
        assert node.watches > 1
        assert node.out_of_order
        assert node.repeated
        assert node.spoiled, "no chunk was asked for"


@pytest.mark.req("WS-64", "WS-5")
async def test_a_worker_that_took_wrong_bytes_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run, by a worker that does not look at what chunks hash to."""
    from hypercluster.client import content

    monkeypatch.setattr(worker_module, "PAUSE_S", (0.001, 0.01))
    site, empty, _ = recorded(VERSIONS[-1])

    class Credulous(bytes):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = bytes.__hash__

    monkeypatch.setattr(content, "hash_of", lambda _: Credulous())
    async with UnrulyNode(site, empty, SEEDS[0]) as node, following(node, site, tmp_path / "mirror") as worker:
        async with asyncio.timeout(CONVERGES_S):
            await worker.wait_applied(site.header.log_index)
        assert node.spoiled
        assert (await worker.verify()).findings != []
