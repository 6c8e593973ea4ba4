"""Which events a request is about (HIS-11).

Invariants: structural kinds pass every filter by channel; a filter that could leave an event out of an author's chain
makes the stream a view, which never moves what a peer calls its heads; `since_ms` decides nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from hypercluster.errors import MalformedError, TooLargeError
from hypercluster.limits import HISTORY_CHANNEL_BYTES_MAX, HISTORY_FILTER_NAMES_MAX
from hypercluster.pb.v1 import history_pb2 as pb
from hypercluster.state_machine.history.events import AUTHOR_BYTES, STRUCTURAL_KINDS, Event


class Filter(NamedTuple):
    """None: that axis restricts nothing."""

    channels: frozenset[str] | None = None
    authors: frozenset[bytes] | None = None
    kinds: frozenset[int] | None = None

    @property
    def is_view(self) -> bool:
        """What it lets through may have gaps."""
        return self.channels is not None or self.kinds is not None

    def wants(self, author: bytes) -> bool:
        return self.authors is None or author in self.authors

    def passes(self, event: Event) -> bool:
        if self.kinds is not None and event.kind not in self.kinds:
            return False
        return self.channels is None or event.kind in STRUCTURAL_KINDS or event.channel in self.channels


EVERYTHING = Filter()


def read_filter(message: pb.HistoryFilter) -> Filter:
    """Raises MalformedError and TooLargeError."""
    for axis in ("channels", "authors", "kinds"):
        count = len(getattr(message, axis))
        if count > HISTORY_FILTER_NAMES_MAX:
            raise TooLargeError(
                f"filter.{axis} holds {count}, limit HISTORY_FILTER_NAMES_MAX is {HISTORY_FILTER_NAMES_MAX}"
            )
    for author in message.authors:
        if len(author) != AUTHOR_BYTES:
            raise MalformedError(f"filter.authors: {len(author)} bytes, must have {AUTHOR_BYTES}")
    for channel in message.channels:
        if len(channel.encode()) > HISTORY_CHANNEL_BYTES_MAX:
            raise TooLargeError(f"filter.channels: a name over HISTORY_CHANNEL_BYTES_MAX {HISTORY_CHANNEL_BYTES_MAX}")
    return Filter(
        channels=frozenset(message.channels) or None,
        authors=frozenset(message.authors) or None,
        kinds=frozenset(message.kinds) or None,
    )


def filter_message(chosen: Filter, since_ms: int = 0) -> pb.HistoryFilter:
    return pb.HistoryFilter(
        channels=sorted(chosen.channels or ()),
        authors=sorted(chosen.authors or ()),
        kinds=sorted(chosen.kinds or ()),
        since_ms=since_ms,
    )
