"""The replicated state machine: one entry in, its changes and answers out.

Owns: the order in which an entry's commands are judged, each one's stamp, and what is written with every entry.
What a command means lives beside it: lanes.py and results.py (D-7), hub.py, maintenance.py and workspace/.
Never: a clock, randomness, I/O, floats, logging (D-4), or a write to the store: the shell writes `Applied.changes`
before it applies the next entry.
Invariants: what `apply` returns is a function of the state and the entry alone, and the caches change speed only;
stamps rise strictly from command to command across entries, whatever the leader stamped (D-5); an exception leaves
the store as it was and names index and command (CL-16).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from hypercluster.errors import ApplyFailedError, InvariantError, check
from hypercluster.state_machine import versions
from hypercluster.state_machine.context import Effects, OpContext
from hypercluster.state_machine.decoded import DecodedEntry, DecodedGroup, EntryType
from hypercluster.state_machine.digest import next_digest
from hypercluster.state_machine.group import GroupJudge
from hypercluster.state_machine.hub import Hub
from hypercluster.state_machine.lanes import Lane, Lanes
from hypercluster.state_machine.meta import AppliedRecord, applied_change, read_applied
from hypercluster.state_machine.oplog import AcceptedGroup, encode_record, record_change
from hypercluster.state_machine.outcome import Applied
from hypercluster.state_machine.overlay import Overlay
from hypercluster.state_machine.store import Reader
from hypercluster.state_machine.workspace import flush_log
from hypercluster.values import ClientId, Index, Nanos, Scope, Seq, Term

__all__ = ["Machine", "Quarantined"]

_NO_SCOPE = Scope("", "")
_AFTER_ALL = -1  # in place of a command's ordinal: to refuse any one command would not mend what fails now


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A command that is not judged but refused as INTERNAL (CL-16); `ordinal` None means all of the entry."""

    index: Index
    ordinal: int | None = None


class Machine:
    """The state machine over `reader`, which shows what was written and nothing else."""

    def __init__(self, reader: Reader, quarantined: Collection[Quarantined] = ()) -> None:
        self._reader = reader
        self._quarantined = frozenset(quarantined)
        self._quarantined_indexes = frozenset(found.index for found in quarantined)
        self._overlay = Overlay(reader)
        self._open()

    def _open(self) -> None:
        self._applied = read_applied(self._reader)
        self._lanes = Lanes(self._reader)
        self._hub = Hub(self._reader)

    @property
    def applied(self) -> AppliedRecord:
        """How far apply is: the state the next entry is judged against, once the shell wrote what it was given."""
        return self._applied

    @property
    def dedupe_floor(self) -> int:
        return self._lanes.dedupe_floor

    def last_seq(self, client_id: ClientId) -> Seq | None:
        """The last judged seq of a lane, None for a client that has none: for holding gaps back (WS-12).

        Like every read, not between `apply` and the writing of its changes."""
        lane = self._lanes.get(client_id)
        return None if lane is None else Seq(lane.last_seq)

    def lane(self, client_id: ClientId) -> Lane | None:
        """A lane as apply left it, to be read only: for answering a retry from what is stored (D-3)."""
        return self._lanes.get(client_id)

    def discard(self) -> None:
        """Forgets all that is cached: after a checkpoint replaced the state underneath."""
        self._overlay.discard()
        self._open()

    def advance(self, index: Index, term: Term) -> Applied:
        """A committed entry with nothing to apply: only the applied index and the digest move."""
        self._check_next(index)
        return self._finish(index, term, self._applied.last_stamp_ns)

    def apply(self, index: Index, term: Term, entry: DecodedEntry) -> Applied:
        """Judges the entry's commands in order. Total: raises only ApplyFailedError, which stops the node."""
        if entry.kind is not EntryType.BATCH:
            return self.advance(index, term)
        self._check_next(index)
        stamp_ns = max(entry.committed_at_ns, self._applied.last_stamp_ns + 1)
        context = OpContext(
            overlay=self._overlay,
            effects=Effects(),
            index=index,
            term=term,
            ordinal=0,
            stamp_ns=Nanos(stamp_ns),
            id_seed=entry.id_seed,
            principal="",
            scope=_NO_SCOPE,
            worker="",
            client_id=ClientId(b""),
            seq=Seq(0),
            workspace_id=b"",
            origin=b"",
        )
        try:
            return self._judge(context, entry.groups, stamp_ns)
        except (Exception, InvariantError) as error:
            ordinal = None if context.ordinal == _AFTER_ALL else context.ordinal
            where = "after its last command" if ordinal is None else f"at command {ordinal}"
            words = f"apply of entry {index} failed {where}: {type(error).__name__}: {error}"
            raise ApplyFailedError(words, index, ordinal) from error

    def _judge(self, context: OpContext, groups: tuple[DecodedGroup, ...], stamp_ns: int) -> Applied:
        judge = GroupJudge(context, self._lanes, self._hub, stamp_ns, self._quarantine(context.index))
        ordinal = 0
        results = []
        accepted: dict[Scope, list[AcceptedGroup]] = {}
        for group in groups:
            results.append(judge.judge(group, ordinal))
            if judge.ranges:
                accepted.setdefault(group.scope, []).append(AcceptedGroup(group, ordinal, judge.ranges))
            ordinal += len(group.run.ops)
        context.ordinal = _AFTER_ALL
        hub_batches: dict[Scope, bytes] = {}
        overlay = self._overlay
        log_batches = flush_log(overlay, context.effects)
        hub_changes, superseded = self._hub.take()
        overlay.record(hub_changes)
        for scope, found in accepted.items():
            record = hub_batches[scope] = encode_record(context.index, context.term, stamp_ns, found)
            overlay.record((record_change(scope, found, record),))
        versions.flush(overlay, context.index, [*superseded, *context.effects.superseded])
        overlay.record(self._lanes.take())
        last_ns = Nanos(stamp_ns + max(ordinal, 1) - 1)
        applied = self._finish(context.index, context.term, last_ns)
        return replace(
            applied,
            groups=tuple(results),
            chunks=context.effects.chunks,
            log_batches=log_batches,
            hub_batches=hub_batches,
            events=tuple(context.effects.events),
            absent=context.effects.absent,
            trimmed=tuple(context.effects.trimmed),
            snapshots=tuple(context.effects.marked),
        )

    def _quarantine(self, index: Index) -> Callable[[int], bool] | None:
        if index not in self._quarantined_indexes:
            return None
        return lambda ordinal: not self._quarantined.isdisjoint((Quarantined(index), Quarantined(index, ordinal)))

    def _check_next(self, index: Index) -> None:
        expected = self._applied.index + 1
        check(index == expected, f"entry {index} is applied where {expected} comes next")

    def _finish(self, index: Index, term: Term, last_stamp_ns: Nanos) -> Applied:
        changes = self._overlay.take_changes()
        digest = next_digest(self._applied.digest, index, term, last_stamp_ns, changes)
        self._applied = AppliedRecord(index, term, last_stamp_ns, digest)
        changes.append(applied_change(self._applied))
        return Applied(index, term, digest, last_stamp_ns, changes)
