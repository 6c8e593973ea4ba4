"""What a worker hears of a node, and when it stops listening to it (WS-51)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from hypercluster.client.worker import feed
from hypercluster.errors import BehindError, NoQuorumError
from hypercluster.pb.v1 import workspace_pb2
from hypercluster.pb.v1.workspace_command_pb2 import LogBatch, LogRecord

W = b"w" * 16


def slice_of(index: int) -> workspace_pb2.WatchLogResponse:
    batch = LogBatch(records=[LogRecord(log_index=index)]).SerializeToString()
    return workspace_pb2.WatchLogResponse(
        slice=workspace_pb2.LogSlice(batches=[batch], first_index=index, last_index=index)
    )


class Cluster:
    """One node's log as far as it has it, and the leader's answer to how far the log is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, events: list[object], head: int | None) -> None:
        self.events = events
        self.head = head
        self.asked = 0
        self.cancelled = False
        self.said: dict[str, str] = {}
        monkeypatch.setattr(feed, "SILENT_S", 0.001)
        monkeypatch.setattr(feed, "workspace_service", lambda channel: channel)

    def channel(self, _: str) -> Any:
        return self

    def WatchLog(self, _: object) -> Any:
        return self

    async def read(self, call: Callable[..., Awaitable[Any]] | None = None, *_: object, **__: object) -> Any:
        """Of the stream, and of `Nodes`."""
        if call is not None:
            self.asked += 1
            if self.head is None:
                raise NoQuorumError("no node leads")
            return workspace_pb2.BarrierResponse(workspace=workspace_pb2.WorkspaceSummary(log_index=self.head))
        if self.events:
            return self.events.pop(0)
        return await asyncio.get_running_loop().create_future()

    def cancel(self) -> None:
        self.cancelled = True


async def followed(cluster: Cluster) -> list[int]:
    return [
        record.log_index
        async for event in feed.watch(cluster, "n3", W, 1, b"")  # type: ignore[arg-type]
        if isinstance(event, feed.Records)
        for record in event.records
    ]


@pytest.mark.req("WS-51")
async def test_a_node_that_is_cut_off_from_the_others_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the stream open and has nothing to send, for as long as it is cut off."""
    cluster = Cluster(monkeypatch, [slice_of(1)], head=2)
    with pytest.raises(BehindError, match="cut off"):
        await asyncio.wait_for(followed(cluster), 5)
    assert cluster.cancelled and cluster.asked == 2


@pytest.mark.req("WS-51", "WS-3")
@pytest.mark.parametrize("head", [1, None])
async def test_a_silent_log_is_listened_to(monkeypatch: pytest.MonkeyPatch, head: int | None) -> None:
    """Nothing was written, or nobody can tell."""
    cluster = Cluster(monkeypatch, [slice_of(1)], head)
    following = asyncio.ensure_future(followed(cluster))
    while cluster.asked < 5:
        await asyncio.wait({following}, timeout=0.001)
        assert not following.done()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert cluster.cancelled


async def test_the_end_of_a_stream_is_the_end_of_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, [slice_of(1), slice_of(2), grpc.aio.EOF], head=9)
    assert await asyncio.wait_for(followed(cluster), 5) == [1, 2]
    assert cluster.said == {"n3": "ended the log"}
