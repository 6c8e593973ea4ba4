"""Authors with keys, chains of signed events, and peers that answer each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hypercluster.credentials.authors import check_signature
from hypercluster.history_sync.exchange import Exchange
from hypercluster.history_sync.filters import EVERYTHING, Filter
from hypercluster.history_sync.receiver import Receiver
from hypercluster.history_sync.requests import read_request, requests_of_round
from hypercluster.history_sync.responder import respond
from hypercluster.history_sync.source import MemoryHistory
from hypercluster.pb.v1 import history_pb2 as pb
from hypercluster.state_machine.history.events import NO_HASH, Event, read_event


class Author:
    """Signs what it is told, also what it should not."""

    def __init__(self, seed: int) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))
        self.key = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def event(
        self,
        seq: int,
        prev: bytes,
        payload: bytes = b"",
        *,
        deps: Sequence[bytes] = (),
        kind: int = 16,
        channel: str = "",
        hint_ms: int = 0,
    ) -> Event:
        body = pb.HistoryEventBody(
            author=self.key,
            seq=seq,
            prev=prev,
            deps=deps,
            kind=kind,
            payload=payload,
            channel=channel,
            timestamp_hint_ms=hint_ms,
        )
        signed = body.SerializeToString()
        return read_event(signed, self._key.sign(signed))

    def chain(self, count: int, *, payload: bytes = b"x", after: Event | None = None) -> list[Event]:
        events: list[Event] = []
        for _ in range(count):
            after = self.event(after.seq + 1, after.hash, payload) if after else self.event(1, NO_HASH, payload)
            events.append(after)
        return events


def verify(event: Event) -> None:
    check_signature(event.author, event.signed, event.signature)


@dataclass(slots=True)
class Peer:
    """A store with a receiver. `cut(reply_number)` says whether the channel breaks before that reply."""

    name: str
    now_s: float = 0.0
    generation: int = 1
    store: MemoryHistory = field(default_factory=MemoryHistory)
    receiver: Receiver = field(init=False)
    moved_bytes: int = 0
    replies: list[pb.SyncReply] = field(default_factory=list)
    _ids: int = 0

    def __post_init__(self) -> None:
        self.receiver = Receiver(self.store, verify, lambda: self.now_s)

    def add(self, *events: Event) -> None:
        for event in events:
            self.receiver.insert(event)

    def new_id(self) -> bytes:
        self._ids += 1
        return self._ids.to_bytes(16, "big")

    def pull(
        self, provider: Peer, chosen: Filter = EVERYTHING, cut: Callable[[int], bool] = lambda _: False
    ) -> list[Exchange]:
        """One round with `provider`, over the bytes as they would travel. Ends early where the channel is cut."""
        exchanges: list[Exchange] = []
        number = 0
        self.moved_bytes = 0
        self.replies = []
        for request in requests_of_round(self.store, self.new_id, chosen):
            exchange = Exchange(self.store, self.receiver, request, provider.name)
            exchanges.append(exchange)
            asked = request.message().SerializeToString()
            self.moved_bytes += len(asked)
            read = read_request(pb.SyncRequestV2.FromString(asked))
            for reply in respond(provider.store, read, topic="t", stream_generation=provider.generation):
                number += 1
                if cut(number):
                    return exchanges
                data = reply.SerializeToString()
                self.moved_bytes += len(data)
                self.replies.append(reply)
                exchange.take(pb.SyncReply.FromString(data))
        return exchanges

    def heads(self) -> dict[bytes, tuple[int, bytes]]:
        return {author: tuple(self.store.head(author)) for author in self.store.authors(b"", b"", 1 << 20)}


def exchange_both_ways(one: Peer, other: Peer) -> None:
    """`one` asks, and sends back what `other` lacks."""
    for exchange in one.pull(other):
        other.add(*exchange.to_push())
