"""Taking events in (HIS-3, HIS-5, HIS-9, HIS-11).

Owns: the way of an event from a batch into the store or the waiting room. One receiver serves all exchanges with all
peers of one store (exchange.py).
Never: trusts a peer: `verify` checks each signature.
Invariants: one bad event costs no other anything; a batch of a view moves no head; after each accepted event those that
waited for it follow at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from hypercluster.errors import TooLargeError, TurnedAwayError
from hypercluster.history_sync.pending import Missing, Pending
from hypercluster.history_sync.requests import SyncRequest
from hypercluster.history_sync.source import HistoryStore
from hypercluster.limits import HISTORY_BATCH_EVENTS_MAX
from hypercluster.pb.v1 import history_pb2 as pb
from hypercluster.state_machine.history.chain import Verdict
from hypercluster.state_machine.history.events import Event, read_event

MARKERS_MAX: Final = 1_024  # (provider, generation) pairs that are remembered


class Refusal(NamedTuple):
    """An event that was not taken, and why."""

    event: Event | None
    words: str


class Taken(NamedTuple):
    """What a batch came to. `viewed`: of a view, in the order they came, for whoever shows them."""

    accepted: tuple[Event, ...]
    duplicates: int
    waiting: int
    forked: tuple[Event, ...]
    refused: tuple[Refusal, ...]
    viewed: tuple[Event, ...] = ()


class Receiver:
    """`verify(event)` raises InvalidSignatureError; `now_s` is a clock that never goes back."""

    def __init__(self, store: HistoryStore, verify: Callable[[Event], None], now_s: Callable[[], float]) -> None:
        self._store = store
        self._verify = verify
        self._now_s = now_s
        self._told: OrderedDict[tuple[str, int], None] = OrderedDict()
        self.pending = Pending()
        self.missing = Missing()

    def take(self, request: SyncRequest, batch: pb.SyncBatchV2) -> Taken:
        """Raises TooLargeError for an endless one."""
        if len(batch.events) > HISTORY_BATCH_EVENTS_MAX:
            raise TooLargeError(
                f"batch.events holds {len(batch.events)}, limit HISTORY_BATCH_EVENTS_MAX is {HISTORY_BATCH_EVENTS_MAX}"
            )
        gathered = _Gathered()
        for message in batch.events:
            try:
                event = read_event(message.signed, message.signature)
            except TurnedAwayError as error:
                gathered.refused.append(Refusal(None, str(error)))
                continue
            self._one(event, request.filter.is_view, gathered)
        return gathered.taken()

    def insert(self, event: Event) -> Taken:
        """One event, from whatever channel, as an unfiltered batch would bring it."""
        gathered = _Gathered()
        self._one(event, False, gathered)
        return gathered.taken()

    def first_told(self, provider: str, generation: int) -> bool:
        """Whether this run of this provider says for the first time that it is through (HIS-12)."""
        key = (provider, generation)
        if key in self._told:
            return False
        self._told[key] = None
        if len(self._told) > MARKERS_MAX:
            self._told.popitem(last=False)
        return True

    def _one(self, event: Event, is_view: bool, gathered: _Gathered) -> None:
        if not is_view and self._store.place(event.hash) is not None:
            gathered.duplicates += 1  # its bytes were verified when they came first
            return
        try:
            self._verify(event)
        except TurnedAwayError as error:
            gathered.refused.append(Refusal(event, str(error)))
            return
        if is_view:
            gathered.viewed.append(event)
            return
        following: Event | None = event
        while following is not None:
            verdict = self._store.insert(following)
            self._sort(following, verdict, gathered)
            if verdict is not Verdict.ACCEPTED:
                return
            following = self.pending.take(following.author, following.seq + 1)

    def _sort(self, event: Event, verdict: Verdict, gathered: _Gathered) -> None:
        match verdict:
            case Verdict.ACCEPTED:
                gathered.accepted.append(event)
                self.missing.found(event.hash)
                for dep in event.deps:
                    if self._store.place(dep) is None:
                        self.missing.add(dep)
            case Verdict.DUPLICATE:
                gathered.duplicates += 1
            case Verdict.GAP:
                if self.pending.put(event, self._now_s()):
                    gathered.waiting += 1
                else:
                    gathered.refused.append(Refusal(event, "no room to wait for the event before it"))
            case Verdict.FORKED | Verdict.DUPLICATE_GENESIS:
                gathered.forked.append(event)
            case _:
                gathered.refused.append(Refusal(event, verdict.value))


class _Gathered:
    def __init__(self) -> None:
        self.accepted: list[Event] = []
        self.duplicates = 0
        self.waiting = 0
        self.forked: list[Event] = []
        self.refused: list[Refusal] = []
        self.viewed: list[Event] = []

    def taken(self) -> Taken:
        return Taken(
            tuple(self.accepted),
            self.duplicates,
            self.waiting,
            tuple(self.forked),
            tuple(self.refused),
            tuple(self.viewed),
        )
