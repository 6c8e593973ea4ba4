"""Events joined into operations: what was asked, when, and what came of it (CH-5).

Owns: the pairing of an invoke with its end, and what makes a history malformed.
Never: judges what an operation did.
Invariants: a process has one operation under way at a time; after an unknown outcome its name is not used again; an
invoke without an end is unknown. A history that breaks them was written wrongly, and whoever judges it would judge
nothing: HistoryError, which every checker answers with *unknown*.
An unknown operation returns NEVER: it may take effect at any moment after its call, or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from chaos.records import FAIL, INFO, INVOKE, OK, Event

NEVER: Final = 1 << 63


class HistoryError(ValueError):
    """The history contradicts itself. Names process and moment."""


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """`asked` is the invoke's value, `result` the ok's. `outcome`: ok, fail (certainly not), info (unknown)."""

    process: str
    workload: str
    op: str
    key: str
    asked: Any
    level: str
    called_ns: int
    returned_ns: int
    outcome: str
    result: Any
    error: str
    extra: Mapping[str, Any]

    def number(self, *names: str) -> int | None:
        """The first of these extra fields that holds an integer."""
        for name in names:
            value = self.extra.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        return None

    def text(self, *names: str) -> str:
        """The first of these extra fields that holds words."""
        return next((v for v in (self.extra.get(n) for n in names) if isinstance(v, str) and v), "")

    def describe(self) -> str:
        """Enough to look it up in the history."""
        ended = "and has no known outcome" if self.outcome == INFO else f"to {self.returned_ns}"
        level = f" {self.level}" if self.level else ""
        came = f" -> {self.result!r}" if self.outcome == OK else f" {self.outcome} {self.error}".rstrip()
        if self.outcome == INFO:
            came = f" info {self.error}".rstrip()
        version = self.number("version")
        told = f", version {version}" if version is not None else ""
        return f"{self.process}{level} {self.op} {self.key} {self.asked!r}{came}{told} (from {self.called_ns} {ended})"


def join(events: Iterable[Event]) -> list[Operation]:
    """Operations by the time they were called. `events` are in the order of time. Raises HistoryError."""
    pending: dict[str, Event] = {}
    gone: set[str] = set()
    joined: list[Operation] = []
    for event in events:
        begun = pending.pop(event.process, None)
        if event.kind == INVOKE:
            if begun is not None:
                raise HistoryError(f"{event.process} calls {event.op} at {event.at_ns} with {begun.op} under way")
            if event.process in gone:
                raise HistoryError(f"{event.process} calls {event.op} at {event.at_ns} after an unknown outcome")
            pending[event.process] = event
            continue
        if begun is None:
            raise HistoryError(f"{event.process} ends {event.op} at {event.at_ns} without having called it")
        if (begun.workload, begun.op, begun.key) != (event.workload, event.op, event.key):
            raise HistoryError(f"{event.process} ends {event.op} {event.key!r} at {event.at_ns}, called another")
        if event.at_ns < begun.at_ns:
            raise HistoryError(f"{event.process} ends {event.op} at {event.at_ns}, before its call at {begun.at_ns}")
        if event.kind == INFO:
            gone.add(event.process)
        joined.append(_operation(begun, event))
    joined += [_operation(begun, None) for begun in pending.values()]
    return sorted(joined, key=lambda operation: operation.called_ns)


def by_key(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    keys: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        keys[operation.key].append(operation)
    return dict(keys)


def clients_of(operations: Iterable[Operation]) -> set[str]:
    """Every client_id that was written down."""
    return {client for operation in operations if (client := operation.text("client_id"))}


def _operation(begun: Event, ended: Event | None) -> Operation:
    outcome = ended.kind if ended is not None else INFO
    return Operation(
        process=begun.process,
        workload=begun.workload,
        op=begun.op,
        key=begun.key,
        asked=begun.value,
        level=begun.level,
        called_ns=begun.at_ns,
        returned_ns=ended.at_ns if ended is not None and outcome in (OK, FAIL) else NEVER,
        outcome=outcome,
        result=ended.value if ended is not None else None,
        error=ended.error if ended is not None else "",
        extra={**begun.extra, **(ended.extra if ended is not None else {})},
    )
