"""Raft indexes and log indexes against real time: what was acknowledged first comes first (D-2, CL-10, WS-31).

Owns: the verdict `index_order`, over all workloads at once; it needs no model and no final state.
A change that was called after another one was acknowledged has a higher Raft index, since it is in a later entry; in
one workspace a higher log_index too. A linearizable read answers at no lower index than anything acknowledged, or
shown by another read, before it was called. Two changes never share a log_index.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from chaos.checkers.findings import Findings, cannot_judge
from chaos.checkers.levels import Watermark
from chaos.checkers.operations import HistoryError, Operation, join
from chaos.records import OK, Verdict
from chaos.seams import Finished

READS: Final = frozenset({"read", "read_all", "read_file"})


class IndexOrderChecker:
    name = "index_order"
    workloads: frozenset[str] = frozenset()

    def check(self, run: Finished) -> Verdict:
        findings = Findings(self.name)
        try:
            acknowledged = [o for o in join(run.events) if o.outcome == OK]
        except HistoryError as error:
            return cannot_judge(self.name, str(error))
        judged = _judge_raft(acknowledged, findings)
        logs: dict[str, list[tuple[Operation, int]]] = defaultdict(list)
        for operation in acknowledged:
            log_index = operation.number("log_index")
            if log_index is not None and operation.op not in READS:
                logs[operation.text("workspace")].append((operation, log_index))
        for numbered in logs.values():
            _judge_log(numbered, findings)
        return findings.verdict("indexes rise with real time", judged)


def _judge_raft(acknowledged: Sequence[Operation], findings: Findings) -> int:
    indexed = [(o, index) for o in acknowledged if (index := o.number("raft_index")) is not None]
    told = Watermark((o.returned_ns, index) for o, index in indexed)
    changed = Watermark((o.returned_ns, index) for o, index in indexed if o.op not in READS)
    for operation, index in indexed:
        if operation.op in READS:
            if operation.level in ("", "linearizable") and index < told.before(operation.called_ns):
                known = told.before(operation.called_ns)
                findings.wrong(f"answered at index {index}, {known} was known before: {operation.describe()}")
        elif index <= changed.before(operation.called_ns):
            before = changed.before(operation.called_ns)
            findings.wrong(f"at index {index}, after one at {before} was acknowledged: {operation.describe()}")
    return len(indexed)


def _judge_log(numbered: Sequence[tuple[Operation, int]], findings: Findings) -> None:
    told = Watermark((o.returned_ns, index) for o, index in numbered)
    owners: dict[int, Operation] = {}
    for operation, index in numbered:
        if index <= told.before(operation.called_ns):
            before = told.before(operation.called_ns)
            findings.wrong(f"log_index {index}, after {before} was acknowledged: {operation.describe()}")
        other = owners.setdefault(index, operation)
        if other is not operation:
            findings.wrong(f"log_index {index} twice: {other.describe()}; {operation.describe()}")
