"""Answering a SyncRequestV2 (HIS-4 to HIS-8, HIS-10 to HIS-12).

Owns: the order of an answer: forks and missing bases as they are met, events by (author, seq) in envelopes, the last
batch, the marker. Pure over a HistorySource: whoever carries it paces, bounds its time and checks who may ask.
Never: an event of an author whose chains disagree, or a part of a chain whose beginning the requester lacks and this
side no longer has.
Invariants: exactly one batch has more = false, and only the marker follows it; each reply fits an envelope unless it is
one larger event alone; what is served goes up to the heads as they were when the author was reached, and the digest
tells of those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hypercluster.history_sync.heads import AuthorHead, HeadsDigest, Relation, compare, head_of
from hypercluster.history_sync.requests import SyncRequest
from hypercluster.history_sync.source import HistorySource
from hypercluster.limits import HISTORY_AUTHORS_MAX, HISTORY_BATCH_EVENTS_MAX, HISTORY_ENVELOPE_BYTES_MAX
from hypercluster.pb.v1 import history_pb2 as pb
from hypercluster.state_machine.history.events import NO_HASH, Event

PAGE_AUTHORS: Final = 256
# A batch without its events: request_id, `more`, and the tags and lengths around it; a test measures it (HIS-7).
BATCH_OVERHEAD_BYTES: Final = 26
# Of an event: tag and length of the event, of its signed bytes, and of its signature, at their longest.
EVENT_OVERHEAD_BYTES: Final = 11


class _Packer:
    """Greedy, with a running total: an event goes into the open batch, or closes it."""

    def __init__(self, request_id: bytes) -> None:
        self._request_id = request_id
        self._events: list[pb.HistoryEvent] = []
        self._bytes = BATCH_OVERHEAD_BYTES

    def add(self, event: Event) -> pb.SyncReply | None:
        """The batch that this event did not fit in."""
        size_bytes = len(event.signed) + len(event.signature) + EVENT_OVERHEAD_BYTES
        full = self._bytes + size_bytes > HISTORY_ENVELOPE_BYTES_MAX or len(self._events) >= HISTORY_BATCH_EVENTS_MAX
        closed = self._close(more=True) if full and self._events else None
        self._events.append(pb.HistoryEvent(signed=event.signed, signature=event.signature))
        self._bytes += size_bytes
        return closed

    def last(self) -> pb.SyncReply:
        return self._close(more=False)

    def _close(self, more: bool) -> pb.SyncReply:
        batch = pb.SyncBatchV2(request_id=self._request_id, events=self._events, more=more)
        self._events, self._bytes = [], BATCH_OVERHEAD_BYTES
        return pb.SyncReply(batch=batch)


def respond(
    source: HistorySource, request: SyncRequest, *, topic: str = "", stream_generation: int = 0
) -> Iterator[pb.SyncReply]:
    """The replies in order. Reads as it goes, so an answer that is given up costs no more than what was taken of it."""
    request_id = request.request_id
    packer = _Packer(request_id)
    theirs = {head.author: head for head in request.heads}
    served = HeadsDigest()
    behind: list[AuthorHead] = []
    bases: list[pb.HistoryHead] = []
    last_hash, count = b"", 0
    for author in _authors(source, request):
        their_head = theirs.get(author) or AuthorHead(author, 0, NO_HASH)
        ours = head_of(source, author)
        relation = compare(source, their_head)
        if relation is not Relation.FORKED:
            served.add(ours)
        match relation:
            case Relation.BEHIND:
                behind.append(ours)
            case Relation.FORKED:
                event = source.event(author, their_head.seq)
                if event is not None:  # of a compacted one there is no proof to show
                    yield pb.SyncReply(forked=_forked(request_id, event))
            case Relation.COMPACTED:
                base = source.base(author)
                bases.append(pb.HistoryHead(author=author, seq=base.seq, hash=base.hash))
                if len(bases) == HISTORY_AUTHORS_MAX:
                    yield _bases(request_id, bases)
                    bases = []
            case Relation.AHEAD:
                for event in source.events(author, their_head.seq):
                    if event.seq > ours.seq:
                        break
                    if not request.filter.passes(event):
                        continue
                    closed = packer.add(event)
                    last_hash, count = event.hash, count + 1
                    if closed is not None:
                        yield closed
    behind += (AuthorHead(head.author, 0, NO_HASH) for head in request.heads if not source.head(head.author).seq)
    if bases:
        yield _bases(request_id, bases)
    yield packer.last()
    yield pb.SyncReply(
        complete=pb.HistorySyncComplete(
            request_id=request_id,
            topic=topic,
            last_event_hash=last_hash,
            stream_generation=stream_generation,
            served_heads_digest=served.digest(),
            event_count=count,
            behind=[pb.HistoryHead(author=h.author, seq=h.seq, hash=h.hash) for h in behind],
        )
    )


def _authors(source: HistorySource, request: SyncRequest) -> Iterator[bytes]:
    """Of the interval, as far as the filter wants them. One that only the requester knows is not among them."""
    first = request.first
    while True:
        page = source.authors(first, request.end, PAGE_AUTHORS)
        yield from (author for author in page if request.filter.wants(author))
        if len(page) < PAGE_AUTHORS:
            return
        first = page[-1] + b"\0"


def _forked(request_id: bytes, event: Event) -> pb.HistoryForked:
    return pb.HistoryForked(
        request_id=request_id, event=pb.HistoryEvent(signed=event.signed, signature=event.signature)
    )


def _bases(request_id: bytes, bases: list[pb.HistoryHead]) -> pb.SyncReply:
    return pb.SyncReply(snapshot_required=pb.HistorySnapshotRequired(request_id=request_id, bases=bases))
