"""Frames on their way out, and those that must wait for a sync first.

Owns: the rule that what reflects buffered state leaves only when that state is durable (CL-2): each frame carries
the log generation it waits for, and is released by `durable_generation`, never by "a sync has finished".
Never: reorders acknowledgements to one peer within a generation; keeps more than HELD_FRAMES_MAX.
Invariants: a frame made in an older term is dropped, not released. A later acknowledgement to the same peer in the
same generation replaces the held one, so the number held does not grow with the load.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypercluster.limits import HELD_FRAMES_MAX
from hypercluster.pb.v1.peer_pb2 import PeerFrame
from hypercluster.raft.engine import PeerTransport
from hypercluster.storage.wal.types import WriteAheadLog
from hypercluster.values import NodeId


@dataclass(frozen=True, slots=True)
class HeldFrame:
    generation: int
    term: int
    to: NodeId
    kind: str
    frame: PeerFrame


class Outbox:
    def __init__(self, transport: PeerTransport, wal: WriteAheadLog) -> None:
        self._transport = transport
        self._wal = wal
        self._held: list[HeldFrame] = []
        self.bytes_sent = 0
        self.frames_sent = 0

    def send(self, to: NodeId, frame: PeerFrame, *, after: int, term: int) -> bool:
        """Sends now if generation `after` is durable, holds it otherwise. False: dropped."""
        if after <= self._wal.durable_generation:
            return self._send_now(to, frame)
        kind = frame.WhichOneof("kind") or ""
        if kind == "append_ack":
            self._held = [
                held
                for held in self._held
                if held.to != to or held.kind != kind or held.generation != after or not held.frame.append_ack.success
            ]
        if len(self._held) >= HELD_FRAMES_MAX:
            return False  # a sync that hangs: what is dropped is asked for again
        self._held.append(HeldFrame(after, term, to, kind, frame))
        return True

    def release(self, term: int) -> None:
        """After a sync: whatever waited for a generation that is now durable leaves, in order."""
        if not self._held:
            return
        durable = self._wal.durable_generation
        due = [held for held in self._held if held.generation <= durable]
        self._held = [held for held in self._held if held.generation > durable]
        for held in due:
            if held.term == term:
                self._send_now(held.to, held.frame)

    def drop_all(self) -> None:
        self._held.clear()

    def _send_now(self, to: NodeId, frame: PeerFrame) -> bool:
        content = frame.SerializeToString()
        self.frames_sent += 1
        self.bytes_sent += len(content)
        return self._transport.send(to, content)

    @property
    def held(self) -> int:
        return len(self._held)
