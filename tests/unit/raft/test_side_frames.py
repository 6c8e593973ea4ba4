"""Frames past the engine: on the same streams, in bounds, and nothing of it where the engine looks (WS-51, SEC-3)."""

from __future__ import annotations

import pytest

from hypercluster import limits
from hypercluster.errors import MalformedError
from hypercluster.pb.v1.peer_pb2 import PeerFrame, SnapshotExchange, SnapshotReply, SnapshotRequest, TermNotice
from hypercluster.pb.v1.snapshot_pb2 import SignedManifest
from hypercluster.raft.frames import decode_frame
from hypercluster.raft.side_frames import SideFrames
from hypercluster.snapshot_manifest import MANIFEST_BYTES_MAX
from hypercluster.values import Membership, NodeId

A, B = NodeId("a"), NodeId("b")
REQUEST = SnapshotExchange(request=SnapshotRequest(workspace_id=bytes(16), log_index=7, pages=[b"h" * 32]))


class Wire:
    """A transport that does what the test says."""

    def __init__(self) -> None:
        self.sent: list[tuple[NodeId, bytes]] = []
        self.waiting_bytes = 0
        self.peers: Membership | None = None
        self.closed = False

    def start(self, on_frame, on_connected, on_disconnected) -> None:  # type: ignore[no-untyped-def]
        self.on_frame, self.on_connected, self.on_disconnected = on_frame, on_connected, on_disconnected

    def set_peers(self, membership: Membership) -> None:
        self.peers = membership

    def send(self, to: NodeId, frame: bytes) -> bool:
        self.sent.append((to, frame))
        return True

    def queued_bytes(self, to: NodeId) -> int:
        return self.waiting_bytes

    def close(self) -> None:
        self.closed = True


@pytest.mark.req("WS-51")
def test_each_side_sees_its_own_frames_alone() -> None:
    wire = Wire()
    side = SideFrames(wire)
    seen: list[tuple[NodeId, object]] = []
    side.listen(lambda peer, exchange: seen.append((peer, exchange)))
    side.start(
        lambda peer, frame: seen.append((peer, frame)),
        lambda peer: seen.append((peer, "connected")),
        lambda peer: seen.append((peer, "gone")),
    )
    assert not side.send_side(A, REQUEST), "there is no stream"
    wire.on_connected(A)
    assert side.connected() == [A]
    assert side.send_side(A, REQUEST)
    ((to, frame),) = wire.sent
    assert (to, PeerFrame.FromString(frame).snapshot) == (A, REQUEST)
    notice = PeerFrame(term_notice=TermNotice(term=3)).SerializeToString()
    wire.on_frame(A, frame)
    wire.on_frame(A, notice)
    wire.on_frame(A, b"")
    wire.on_frame(A, frame[:-1])
    wire.on_disconnected(A)
    assert side.connected() == []
    assert seen == [(A, "connected"), (A, REQUEST), (A, notice), (A, b""), (A, "gone")]


@pytest.mark.req("WS-51")
def test_it_stands_behind_what_the_engine_sends() -> None:
    wire = Wire()
    side = SideFrames(wire)
    side.start(lambda _peer, _frame: None, lambda _peer: None, lambda _peer: None)
    wire.on_connected(B)
    wire.waiting_bytes = limits.SIDE_QUEUED_BYTES_MAX + 1
    assert not side.send_side(B, REQUEST)
    assert side.send(B, b"the engine's own")
    assert side.queued_bytes(B) == wire.waiting_bytes
    wire.waiting_bytes = 0
    assert side.send_side(B, REQUEST)
    side.close()
    assert wire.closed
    assert not side.send_side(B, REQUEST)


@pytest.mark.req("SEC-3")
def test_an_exchange_is_bounded_before_anybody_looks_into_it() -> None:
    page, ids = b"p" * limits.CHUNK_BYTES_MAX, {"workspace_id": bytes(16), "log_index": 1}
    many = limits.SNAPSHOT_PAGES_A_REQUEST_MAX
    good = [
        SnapshotExchange(request=SnapshotRequest(**ids)),
        SnapshotExchange(reply=SnapshotReply(**ids, pages=[page] * many)),
        REQUEST,
    ]
    for exchange in good:
        assert decode_frame(PeerFrame(snapshot=exchange).SerializeToString()).snapshot == exchange
    bad = {
        "neither": SnapshotExchange(),
        "workspace_id": SnapshotExchange(request=SnapshotRequest(workspace_id=b"x")),
        "log_index": SnapshotExchange(reply=SnapshotReply(workspace_id=bytes(16), log_index=(1 << 62) + 1)),
        "request.pages": SnapshotExchange(request=SnapshotRequest(**ids, pages=[bytes(32)] * (many + 1))),
        "a hash of 31": SnapshotExchange(request=SnapshotRequest(**ids, pages=[bytes(31)])),
        "reply.pages holds": SnapshotExchange(reply=SnapshotReply(**ids, pages=[b""] * (many + 1))),
        "reply.pages is": SnapshotExchange(reply=SnapshotReply(**ids, pages=[page + b"p"])),
        "manifest": SnapshotExchange(
            reply=SnapshotReply(**ids, manifest=SignedManifest(manifest=bytes(MANIFEST_BYTES_MAX + 1)))
        ),
    }
    for words, exchange in bad.items():
        with pytest.raises(MalformedError, match=words):
            decode_frame(PeerFrame(snapshot=exchange).SerializeToString())
