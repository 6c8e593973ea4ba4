"""What a peer asks, and how strictly that is read (HIS-6, HIS-7, HIS-13).

Owns: `SyncRequest`, its reading before anything is allocated for it, and how a requester with many authors divides
the space of authors into intervals of at most HISTORY_AUTHORS_MAX named ones.
Invariants: heads ascend and lie in the interval; the intervals of one round cover every author once, so an author that
nobody named counts as 0 in exactly one request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from hypercluster.errors import MalformedError, TooLargeError
from hypercluster.history_sync.filters import EVERYTHING, Filter, filter_message, read_filter
from hypercluster.history_sync.heads import AuthorHead, head_of
from hypercluster.history_sync.source import HistorySource
from hypercluster.limits import HISTORY_AUTHORS_MAX
from hypercluster.pb.v1 import history_pb2 as pb
from hypercluster.state_machine.history.events import AUTHOR_BYTES, HASH_BYTES, SEQ_MAX

REQUEST_ID_BYTES: Final = 16


class SyncRequest(NamedTuple):
    """Authors from `first` on and below `end` (no bound where it is empty); `heads` ascending by author."""

    request_id: bytes
    first: bytes
    end: bytes
    heads: tuple[AuthorHead, ...]
    filter: Filter = EVERYTHING

    def message(self) -> pb.SyncRequestV2:
        return pb.SyncRequestV2(
            request_id=self.request_id,
            interval=pb.AuthorInterval(first=self.first, end=self.end),
            heads=[pb.HistoryHead(author=h.author, seq=h.seq, hash=h.hash) for h in self.heads],
            filter=filter_message(self.filter),
        )


def read_request(message: pb.SyncRequestV2) -> SyncRequest:
    """Raises MalformedError and TooLargeError."""
    count = len(message.heads)
    if count > HISTORY_AUTHORS_MAX:
        raise TooLargeError(f"heads holds {count}, limit HISTORY_AUTHORS_MAX is {HISTORY_AUTHORS_MAX}")
    if len(message.request_id) != REQUEST_ID_BYTES:
        raise MalformedError(f"request_id has {len(message.request_id)} bytes, must have {REQUEST_ID_BYTES}")
    first, end = message.interval.first, message.interval.end
    for name, bound in (("first", first), ("end", end)):
        if len(bound) > AUTHOR_BYTES:
            raise MalformedError(f"interval.{name} has {len(bound)} bytes, limit is {AUTHOR_BYTES}")
    if end and end <= first:
        raise MalformedError("interval.end must be above interval.first")
    heads = tuple(read_head(head, f"heads[{number}]") for number, head in enumerate(message.heads))
    before = b""
    for number, head in enumerate(heads):
        if head.author <= before or head.author < first or (end and head.author >= end):
            raise MalformedError(f"heads[{number}].author must be above the one before it, and within the interval")
        before = head.author
    return SyncRequest(message.request_id, first, end, heads, read_filter(message.filter))


def read_head(message: pb.HistoryHead, where: str, seq_min: int = 1) -> AuthorHead:
    if len(message.author) != AUTHOR_BYTES:
        raise MalformedError(f"{where}.author has {len(message.author)} bytes, must have {AUTHOR_BYTES}")
    if len(message.hash) != HASH_BYTES:
        raise MalformedError(f"{where}.hash has {len(message.hash)} bytes, must have {HASH_BYTES}")
    if not seq_min <= message.seq <= SEQ_MAX:
        raise MalformedError(f"{where}.seq is {message.seq}, must be {seq_min} to {SEQ_MAX}")
    return AuthorHead(message.author, message.seq, message.hash)


def requests_of_round(
    source: HistorySource,
    new_id: Callable[[], bytes],
    chosen: Filter = EVERYTHING,
    *,
    first: bytes = b"",
    end: bytes = b"",
) -> Iterator[SyncRequest]:
    """The requests that together cover all authors from `first` on and below `end`: one, unless more are held here than
    a request may name. Each is made when it is asked for, from what is held then."""
    while True:
        authors = source.authors(first, end, HISTORY_AUTHORS_MAX + 1)
        last = authors[HISTORY_AUTHORS_MAX] if len(authors) > HISTORY_AUTHORS_MAX else b""
        heads = tuple(head_of(source, author) for author in authors[:HISTORY_AUTHORS_MAX])
        yield SyncRequest(new_id(), first, last or end, heads, chosen)
        if not last:
            return
        first = last
