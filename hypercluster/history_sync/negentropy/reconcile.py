"""Both sides of a reconciliation: a message in, the answer out (NEG-1 to NEG-3).

    Initiator.open() ─▶ Responder.answer() ─▶ Initiator.answer() ─▶ … until it answers None

Owns: how a range is split: fewer than 32 items as a list of ids, more as 16 fingerprints; what is said of a range that
does not fit a frame (one fingerprint for all that is left). The initiator alone learns what either side lacks.
Never: I/O, clocks, or a bound on rounds: whoever carries the messages counts those (NEG-5).
Invariants: the same items and messages give the same bytes as any other implementation of version 1; no answer to a
fingerprint is one fingerprint of the same range without a frame limit, so ranges shrink until they are lists.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hypercluster.errors import MalformedError
from hypercluster.history_sync.negentropy.items import SealedItems
from hypercluster.history_sync.negentropy.wire import (
    FINGERPRINT,
    ID_BYTES,
    ID_LIST,
    SKIP,
    TOP,
    VERSION,
    VERSIONS,
    Bound,
    Writer,
    decode,
)

BUCKETS: Final = 16
LIST_BELOW: Final = 2 * BUCKETS  # items
FRAME_BYTES_MIN: Final = 4_096
_FRAME_RESERVE_BYTES: Final = 200  # for what ends a message that is cut off
_HEAD: Final = bytes((VERSION,))


class Turn(NamedTuple):
    """What one message told: ids the other side lacks, ids this side lacks, and the answer, None when all is known.

    With a frame limit an id may be told again in a later turn."""

    have: tuple[bytes, ...]
    need: tuple[bytes, ...]
    message: bytes | None


class _Side:
    def __init__(self, items: SealedItems, frame_bytes_max: int = 0) -> None:
        """`frame_bytes_max`: 0 for no limit, otherwise 4 096 or more."""
        if frame_bytes_max and frame_bytes_max < FRAME_BYTES_MIN:
            raise MalformedError(f"frame_bytes_max is {frame_bytes_max}, must be 0, or {FRAME_BYTES_MIN} or more")
        self._items = items
        self._room_bytes = frame_bytes_max - _FRAME_RESERVE_BYTES if frame_bytes_max else 0

    def _full(self, size_bytes: int) -> bool:
        return self._room_bytes > 0 and size_bytes > self._room_bytes

    def _split(self, writer: Writer, start: int, end: int, bound: Bound) -> bytes:
        items, count = self._items, end - start
        if count < LIST_BELOW:
            return writer.range(bound, ID_LIST, items.ids(start, end))
        size, larger = divmod(count, BUCKETS)
        parts: list[bytes] = []
        place = start
        for bucket in range(BUCKETS):
            following = place + size + (bucket < larger)
            last = bound if following == end else _between(items, following)
            parts.append(writer.range(last, FINGERPRINT, items.fingerprint(place, following)))
            place = following
        return b"".join(parts)

    def _work(self, message: bytes, have: list[bytes], need: list[bytes], lists: bool) -> bytes:
        """The answer to a message of our version. `lists`: answer lists of ids by ours, otherwise learn from them."""
        items, writer = self._items, Writer()
        answer = bytearray(_HEAD)
        place, skipped = 0, False
        before = Bound(0)
        for end, mode, payload in decode(message):
            lower, upper = place, items.find(end, place)
            part = bytearray()
            if mode == SKIP:
                skipped = True
            elif mode == FINGERPRINT:
                if payload == items.fingerprint(lower, upper):
                    skipped = True
                else:
                    if skipped:
                        part += writer.range(before, SKIP)
                    skipped = False
                    part += self._split(writer, lower, upper, end)
            elif lists:
                if skipped:
                    part += writer.range(before, SKIP)
                skipped = False
                fitting = self._fitting(lower, upper, len(answer))
                last = end
                if fitting < upper:  # the rest is for the fingerprint that ends the message
                    last, upper = Bound(items.timestamp(fitting), items.item_id(fitting)), fitting
                answer += part + writer.range(last, ID_LIST, items.ids(lower, upper))
                part.clear()
            else:
                _compare(payload, items.ids(lower, upper), have, need)
                skipped = True
            if self._full(len(answer) + len(part)):
                answer += writer.range(TOP, FINGERPRINT, items.fingerprint(upper, len(items)))
                break
            answer += part
            place, before = upper, end
        return bytes(answer)

    def _fitting(self, lower: int, upper: int, used_bytes: int) -> int:
        """Up to which item a list of ids from `lower` on fits the frame."""
        if not self._room_bytes:
            return upper
        return min(upper, lower + max(0, (self._room_bytes - used_bytes) // ID_BYTES + 1))


class Initiator(_Side):
    """The side that asks, and the only one that learns."""

    def open(self) -> bytes:
        """The first message."""
        return _HEAD + self._split(Writer(), 0, len(self._items), TOP)

    def answer(self, message: bytes) -> Turn:
        """Raises MalformedError, also for another version of the protocol."""
        if _version(message) != VERSION:
            raise MalformedError(f"negentropy message: version {message[0]:#x}, must be {VERSION:#x}")
        have: list[bytes] = []
        need: list[bytes] = []
        answer = self._work(message, have, need, lists=False)
        return Turn(tuple(have), tuple(need), None if answer == _HEAD else answer)


class Responder(_Side):
    """The side that is asked. It keeps nothing between messages but its items."""

    def answer(self, message: bytes) -> bytes:
        """Raises MalformedError. To another version it answers with its own alone."""
        if _version(message) != VERSION:
            return _HEAD
        return self._work(message, [], [], lists=True)


def _version(message: bytes) -> int:
    if not message:
        raise MalformedError("negentropy message: is empty")
    if message[0] not in VERSIONS:
        raise MalformedError(f"negentropy message: begins with {message[0]:#x}, must be 0x60 to 0x6f")
    return message[0]


def _between(items: SealedItems, place: int) -> Bound:
    """The shortest bound that divides the item at `place` from the one before it."""
    timestamp, item_id = items.timestamp(place), items.item_id(place)
    if timestamp != items.timestamp(place - 1):
        return Bound(timestamp)
    before = items.item_id(place - 1)
    length = next(n for n in range(ID_BYTES) if item_id[n] != before[n]) + 1
    return Bound(timestamp, item_id[:length])


def _compare(theirs: bytes, ours: bytes, have: list[bytes], need: list[bytes]) -> None:
    their_ids = dict.fromkeys(_ids(theirs))
    for item_id in _ids(ours):
        if item_id in their_ids:
            del their_ids[item_id]
        else:
            have.append(item_id)
    need.extend(their_ids)


def _ids(payload: bytes) -> list[bytes]:
    return [payload[at : at + ID_BYTES] for at in range(0, len(payload), ID_BYTES)]
