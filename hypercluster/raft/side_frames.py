"""Frames between the shells of two nodes, on the streams of the peer transport and past the engine.

Owns: `SideFrames`, a `PeerTransport` around another that takes such frames out of the stream before the engine sees
one, and puts some in.
Never: keeps a frame; lets the engine's wait for many: with SIDE_QUEUED_BYTES_MAX bytes in the queue none is put in.
Invariants: whoever sent a frame was judged by the transport against the membership of that moment; what is handed on is
within limits, and what is not is dropped and told; every other frame passes as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from hypercluster.errors import MalformedError
from hypercluster.limits import SIDE_QUEUED_BYTES_MAX
from hypercluster.pb.v1.peer_pb2 import PeerFrame, SnapshotExchange
from hypercluster.raft.engine import PeerTransport
from hypercluster.raft.frames import decode_frame
from hypercluster.values import Membership, NodeId

log = logging.getLogger(__name__)

_TAG_BYTE: Final = bytes((15 << 3 | 2,))  # of PeerFrame.snapshot: no other kind begins so

OnExchange = Callable[[NodeId, SnapshotExchange], None]


class SideFrames:
    """`raft.engine.PeerTransport`."""

    def __init__(self, inner: PeerTransport) -> None:
        self._inner = inner
        self._on_exchange: OnExchange = lambda _peer, _exchange: None
        self._connected: set[NodeId] = set()

    # --- for the shell ------------------------------

    def listen(self, on_exchange: OnExchange) -> None:
        self._on_exchange = on_exchange

    def connected(self) -> list[NodeId]:
        """Peers there is a stream with, in order."""
        return sorted(self._connected)

    def send_side(self, to: NodeId, exchange: SnapshotExchange) -> bool:
        """False: not connected, or there is enough in the queue."""
        if to not in self._connected or self._inner.queued_bytes(to) > SIDE_QUEUED_BYTES_MAX:
            return False
        return self._inner.send(to, PeerFrame(snapshot=exchange).SerializeToString())

    # --- for the engine ------------------------------

    def start(
        self,
        on_frame: Callable[[NodeId, bytes], None],
        on_connected: Callable[[NodeId], None],
        on_disconnected: Callable[[NodeId], None],
    ) -> None:
        def frame_came(peer: NodeId, frame: bytes) -> None:
            if frame[:1] == _TAG_BYTE:
                self._side_came(peer, frame)
            else:
                on_frame(peer, frame)

        def connected(peer: NodeId) -> None:
            self._connected.add(peer)
            on_connected(peer)

        def disconnected(peer: NodeId) -> None:
            self._connected.discard(peer)
            on_disconnected(peer)

        self._inner.start(frame_came, connected, disconnected)

    def _side_came(self, peer: NodeId, frame: bytes) -> None:
        try:
            found = decode_frame(frame)
        except MalformedError as error:
            log.warning("a frame of %s is dropped: %s", peer, error)
            return
        if found.WhichOneof("kind") == "snapshot":
            self._on_exchange(peer, found.snapshot)

    def set_peers(self, membership: Membership) -> None:
        self._inner.set_peers(membership)

    def send(self, to: NodeId, frame: bytes) -> bool:
        return self._inner.send(to, frame)

    def queued_bytes(self, to: NodeId) -> int:
        return self._inner.queued_bytes(to)

    def close(self) -> None:
        self._connected.clear()
        self._inner.close()
