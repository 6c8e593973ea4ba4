"""What a read of each level may answer (CL-10), from versions and real time alone: quick where a search is slow.

Owns: the verdict `levels` over the keys that registers write, and over files that are only ever written whole
(file_versions.py), whose version is the log_index that wrote them.
Of any level: a value was asked for by a write that did not fail, before the read returned; one value has one version;
and an answer at Raft index R shows every write acknowledged with an index up to R.
linearizable: the version is at least the highest that anybody was told of before the read was called.
bounded_stale: the same for what was told of before the call less the staleness the answer claims; with min_index the
answer's index is not below it, and a process never goes back behind what it was told at an index up to it.
leader_local: no bound in time.
Whatever a read of any level shows was committed, so it counts as told from the moment that read returned.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Final

from chaos.checkers.file_versions import versioned_files
from chaos.checkers.final import FinalError, workspaces
from chaos.checkers.findings import Findings, cannot_judge
from chaos.checkers.models import BadOperationError, cas_parts, frozen
from chaos.checkers.operations import HistoryError, Operation, by_key, join
from chaos.records import FAIL, OK, Verdict
from chaos.seams import Finished

LEVELS: Final = ("linearizable", "leader_local", "bounded_stale")
STALENESS_UNKNOWN_MS: Final = 4_294_967_295
TOLERANCE_MS: Final = 20  # two clocks of one machine read at two moments, and whole milliseconds
MS_NS: Final = 1_000_000


class Watermark:
    """The highest number noted at or before a place; places are moments, or Raft indexes."""

    def __init__(self, noted: Iterable[tuple[int, int]]) -> None:
        self._places: list[int] = []
        self._highest: list[int] = []
        for place, number in sorted(noted):
            self._places.append(place)
            self._highest.append(max(number, self._highest[-1] if self._highest else 0))

    def before(self, place: int) -> int:
        return self._at(bisect_left(self._places, place))

    def up_to(self, place: int) -> int:
        return self._at(bisect_right(self._places, place))

    def _at(self, position: int) -> int:
        return self._highest[position - 1] if position else 0


class LevelsChecker:
    name = "levels"
    workloads = frozenset({"register", "reads", "files"})

    def check(self, run: Finished) -> Verdict:
        findings = Findings(self.name)
        judged = 0
        try:
            operations = join(run.events)
            keys = by_key(o for o in operations if o.workload in ("register", "reads"))
            keys |= versioned_files([o for o in operations if o.workload == "files"], workspaces(run) or [])
            for key, of_key in keys.items():
                judged += _Key(key, of_key, findings).judge()
        except (HistoryError, BadOperationError, FinalError) as error:
            return cannot_judge(self.name, str(error))
        return findings.verdict("every read is as fresh as its level promises", judged)


class _Key:
    def __init__(self, key: str, operations: Sequence[Operation], findings: Findings) -> None:
        self._findings = findings
        self._key = key
        self.reads = [o for o in operations if o.op == "read" and o.outcome == OK]
        writes = [o for o in operations if o.op in ("write", "cas")]
        self._asked: dict[Hashable, list[Operation]] = defaultdict(list)
        for write in writes:
            self._asked[_value_of(write)].append(write)
        told = [(o, v) for o in (*writes, *self.reads) if o.outcome == OK and (v := o.number("version")) is not None]
        self._told = Watermark((o.returned_ns, version) for o, version in told)
        self._by_index = Watermark(
            (index, version) for o, version in told if o.op != "read" and (index := o.number("raft_index")) is not None
        )
        self._versions: dict[Hashable, tuple[int, Operation]] = {}
        for operation, version in told:
            self._note_version(_value_of(operation), version, operation)
        self._own: dict[str, list[Operation]] = defaultdict(list)
        for operation, _ in told:
            self._own[operation.process].append(operation)

    def _note_version(self, value: Hashable, version: int, operation: Operation) -> None:
        known, witness = self._versions.setdefault(value, (version, operation))
        if known != version:
            self._findings.wrong(f"one value with two versions: {witness.describe()}; {operation.describe()}")

    def judge(self) -> int:
        for read in self.reads:
            if read.level not in LEVELS:
                self._findings.unsure(f"a read of no known level: {read.describe()}")
                continue
            self._findings.count(read.level)
            self._origin(read)
            version = read.number("version")
            if version is None:
                self._findings.unsure(f"a read that was told no version: {read.describe()}")
                continue
            self._fresh(read, version)
            self._at_index(read, version)
            if read.level == "bounded_stale":
                self._own_writes(read, version)
        return len(self.reads)

    def _origin(self, read: Operation) -> None:
        value = frozen(read.result)
        if value is None:
            return
        writes = self._asked.get(value, [])
        if not writes:
            self._findings.wrong(f"a value that nobody wrote: {read.describe()}")
        elif all(w.outcome == FAIL for w in writes):
            self._findings.wrong(f"the value of a write that failed: {read.describe()}; {writes[0].describe()}")
        elif all(w.outcome == FAIL or w.called_ns > read.returned_ns for w in writes):
            self._findings.wrong(f"a value before it was written: {read.describe()}; {writes[0].describe()}")

    def _fresh(self, read: Operation, version: int) -> None:
        """Moments at which something was told count when they are over before the moment in question."""
        if read.level == "linearizable":
            since_ns = read.called_ns
        elif read.level == "bounded_stale":
            staleness_ms = read.number("staleness_ms")
            if staleness_ms is None or staleness_ms >= STALENESS_UNKNOWN_MS:
                self._findings.count("bounded_stale of unknown age")
                return
            since_ns = read.called_ns - (staleness_ms + TOLERANCE_MS) * MS_NS
        else:
            return
        told = self._told.before(since_ns)
        if version < told:
            claim = (
                f", staler than the {read.number('staleness_ms')} ms it claims" if read.level != "linearizable" else ""
            )
            self._findings.wrong(
                f"a stale read{claim}: {read.describe()}; version {told} was told of before {since_ns} to "
                f"{self._witness(told)}"
            )

    def _at_index(self, read: Operation, version: int) -> None:
        index = read.number("raft_index")
        if index is None:
            return
        written = self._by_index.up_to(index)
        if version < written:
            self._findings.wrong(
                f"a read at index {index} without a write at or below it: {read.describe()}; {self._witness(written)}"
            )

    def _own_writes(self, read: Operation, version: int) -> None:
        min_index = read.number("min_index")
        if not min_index:
            return
        index = read.number("raft_index")
        if index is None or index < min_index:
            self._findings.wrong(f"an answer at index {index}, asked for {min_index}: {read.describe()}")
        for own in self._own[read.process]:
            known_at, known = own.number("raft_index"), own.number("version")
            if known_at is None or known is None or known_at > min_index or own.returned_ns > read.called_ns:
                continue
            if known > version:
                self._findings.wrong(f"a process goes back: {own.describe()}; then {read.describe()}")
                return

    def _witness(self, version: int) -> str:
        found = (o for value, (v, o) in self._versions.items() if v == version)
        return next((o.describe() for o in found), "nobody")


def _value_of(operation: Operation) -> Hashable:
    if operation.op == "read":
        return frozen(operation.result)
    return cas_parts(operation)[1] if operation.op == "cas" else frozen(operation.asked)
