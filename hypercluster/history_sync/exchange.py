"""One request and its answer, as the side that asked sees it (HIS-4, HIS-6, HIS-10, HIS-12).

Owns: the order in which an answer may come, what its marker means, and what is to be sent back to a provider that is
behind. Who the provider is, the channel says and not the message.
Invariants: nothing is taken after the last batch but the marker, and nothing after that; history is complete only when
what is held covers what the provider said it served. (Where another peer brought more meanwhile, the digests differ and
the answer is TRUNCATED; the next exchange moves nothing and says COMPLETE.)
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final

from hypercluster.errors import MalformedError, TooLargeError
from hypercluster.history_sync.heads import AuthorHead, Relation, compare, head_of, heads_digest
from hypercluster.history_sync.receiver import Receiver, Taken
from hypercluster.history_sync.requests import SyncRequest, read_head
from hypercluster.history_sync.source import HistoryStore
from hypercluster.limits import HISTORY_AUTHORS_MAX
from hypercluster.pb.v1 import history_pb2 as pb
from hypercluster.state_machine.history.events import Event, read_event

_AUTHORS_PAGE: Final = 256


class Completion(Enum):
    COMPLETE = "complete"
    TRUNCATED = "truncated"  # a deeper provider is to be asked
    REPEATED = "repeated"  # complete, and this run of this provider told it before
    VIEW = "view"  # all of what was asked for came; it says nothing of heads (HIS-11)


class Exchange:
    """`provider`: whom the channel authenticated. Feed every reply to `take`, in order."""

    def __init__(self, store: HistoryStore, receiver: Receiver, request: SyncRequest, provider: str) -> None:
        self._store = store
        self._receiver = receiver
        self.request = request
        self._provider = provider
        self._forked: set[bytes] = set()
        self._count = 0
        self._last_batch = False
        self.snapshot_of: dict[bytes, int] = {}  # author -> seq up to which the provider has no events any more
        self.marker: pb.HistorySyncComplete | None = None
        self.completion: Completion | None = None

    def take(self, reply: pb.SyncReply) -> Taken | None:
        """What a batch or a fork brought. Raises MalformedError and TooLargeError for an answer that is none."""
        kind = reply.WhichOneof("kind")
        if kind is None:
            return None  # of a kind that a later version added: it alone is lost (HIS-14)
        message = getattr(reply, kind)
        if message.request_id != self.request.request_id:
            raise MalformedError(f"{kind}.request_id is not that of the request")
        if self.marker is not None or (self._last_batch and kind != "complete"):
            raise MalformedError(f"{kind} follows the end of the answer")
        match kind:
            case "batch":
                taken = self._receiver.take(self.request, reply.batch)
                self._count += len(reply.batch.events)
                self._last_batch = not reply.batch.more
                return taken
            case "forked":
                event = read_event(reply.forked.event.signed, reply.forked.event.signature)
                taken = self._receiver.insert(event)
                if taken.forked:  # the proof holds: both events are the author's
                    self._forked.add(event.author)
                return taken
            case "snapshot_required":
                self._note_bases(reply.snapshot_required)
            case _:
                self._end(reply.complete)
        return None

    def to_push(self) -> Iterator[Event]:
        """After the end: what the provider lacks of the named authors it is behind on, none whose chain forked below
        (HIS-4)."""
        if self.marker is None:
            return
        for number, message in enumerate(self.marker.behind):
            theirs = read_head(message, f"complete.behind[{number}]", seq_min=0)
            if compare(self._store, theirs) is Relation.AHEAD:
                yield from self._store.events(theirs.author, theirs.seq)

    def _note_bases(self, message: pb.HistorySnapshotRequired) -> None:
        if len(message.bases) > HISTORY_AUTHORS_MAX:
            raise TooLargeError(
                f"snapshot_required.bases holds {len(message.bases)}, "
                f"limit HISTORY_AUTHORS_MAX is {HISTORY_AUTHORS_MAX}"
            )
        for number, base in enumerate(message.bases):
            head = read_head(base, f"snapshot_required.bases[{number}]")
            if len(self.snapshot_of) < HISTORY_AUTHORS_MAX:
                self.snapshot_of[head.author] = head.seq

    def _end(self, marker: pb.HistorySyncComplete) -> None:
        if not self._last_batch:
            raise MalformedError("complete comes before the last batch")
        if len(marker.behind) > HISTORY_AUTHORS_MAX:
            raise TooLargeError(
                f"complete.behind holds {len(marker.behind)}, limit HISTORY_AUTHORS_MAX is {HISTORY_AUTHORS_MAX}"
            )
        self.marker = marker
        self.completion = self._judge(marker)

    def _judge(self, marker: pb.HistorySyncComplete) -> Completion:
        if marker.event_count != self._count:
            return Completion.TRUNCATED
        if self.request.filter.is_view:
            return Completion.VIEW
        if marker.last_event_hash and self._store.place(marker.last_event_hash) is None:
            return Completion.TRUNCATED
        if heads_digest(self._heads(marker)) != marker.served_heads_digest:
            return Completion.TRUNCATED
        if not self._receiver.first_told(self._provider, marker.stream_generation):
            return Completion.REPEATED
        return Completion.COMPLETE

    def _heads(self, marker: pb.HistorySyncComplete) -> Iterator[AuthorHead]:
        """What the provider's heads are if ours cover them: ours, and its own where it said that it is behind."""
        request = self.request
        behind = {message.author: AuthorHead(message.author, message.seq, message.hash) for message in marker.behind}
        first = request.first
        while True:
            page = self._store.authors(first, request.end, _AUTHORS_PAGE)
            for author in page:
                if not request.filter.wants(author) or author in self._forked:
                    continue
                head = behind.get(author) or head_of(self._store, author)
                if head.seq:
                    yield head
            if len(page) < _AUTHORS_PAGE:
                return
            first = page[-1] + b"\0"
