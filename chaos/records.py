"""What a run writes down: events of clients, faults, verdicts; one JSON object a line.

Owns: the records and their one encoding. Imports nothing but the standard library, so that checkers and other tools
read a run without the product.
Invariants: `decode(encode(r)) == r`; a line is at most LINE_BYTES_MAX; an unknown kind or a missing field is an error
that names file and line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

LINE_BYTES_MAX = 1 << 20

INVOKE, OK, FAIL, INFO = "invoke", "ok", "fail", "info"
KINDS = (INVOKE, OK, FAIL, INFO)

R = TypeVar("R", bound="Event | Fault")


class BadRecordError(ValueError):
    """A line that is no record. Says where."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a history (CH-5). The end of an operation repeats process, op and key of its invoke.

    `value` is what was asked for (invoke) and what came back (ok): JSON. `extra` is what only some checkers look at:
    raft_index, version, log_index, node, staleness_ms, client_id, seq.
    """

    at_ns: int  # CLOCK_MONOTONIC
    process: str  # one logical client; never used again after an info
    kind: str
    workload: str
    op: str
    key: str = ""
    value: Any = None
    level: str = ""  # of a read: linearizable, leader_local, bounded_stale
    error: str = ""  # reason code of fail and info
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """`phase`: begin, healed, or broken (it could not be begun or healed; the run fails)."""

    at_ns: int
    nemesis: str
    phase: str
    words: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """`outcome`: yes, no, unknown."""

    checker: str
    outcome: str
    words: str
    evidence: tuple[str, ...] = ()  # the first few violations, each enough to look it up in the history
    counts: Mapping[str, int] = field(default_factory=dict)


def encode(record: Event | Fault | Verdict) -> str:
    """Without empty fields, and without a line end. An empty value is one: a file may hold nothing, or not be there."""
    kept = {k: v for k, v in asdict(record).items() if v not in ("", None, (), {}) or (k == "value" and v is not None)}
    return json.dumps(kept, separators=(",", ":"))


def decode(kind: type[R], line: str, where: str = "") -> R:
    """Raises BadRecordError."""
    if len(line) > LINE_BYTES_MAX:
        raise BadRecordError(f"{where}: a line of {len(line)} bytes, limit LINE_BYTES_MAX is {LINE_BYTES_MAX}")
    try:
        values = json.loads(line)
    except ValueError as error:
        raise BadRecordError(f"{where}: not JSON: {error}") from None
    known = {f.name for f in fields(kind)}
    if not isinstance(values, dict) or not values.keys() <= known:
        raise BadRecordError(f"{where}: not a {kind.__name__}: {line[:100]}")
    made: Any = kind
    try:
        record: R = made(**{k: tuple(v) if k == "nodes" else v for k, v in values.items()})
    except TypeError as error:
        raise BadRecordError(f"{where}: {error}") from None
    if isinstance(record, Event) and record.kind not in KINDS:
        raise BadRecordError(f"{where}: kind is {record.kind!r}, must be one of {', '.join(KINDS)}")
    return record


def read(kind: type[R], path: Path) -> Iterator[R]:
    """The records of a file. A last line without an end is a process that was killed while writing, and left out."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.endswith("\n"):
                yield decode(kind, line, f"{path.name}:{number}")


def read_history(directory: Path) -> list[Event]:
    """All streams of a run, in the order of time."""
    events: Iterable[Event] = (e for path in sorted(directory.glob("*.jsonl")) for e in read(Event, path))
    return sorted(events, key=lambda event: event.at_ns)
