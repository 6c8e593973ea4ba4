"""Linearizability, key by key, as a checker: partition, bound, evidence (CH-6).

Owns: which workloads are judged by which model; the share of the budget a key gets.
Invariants: a key that is not settled makes the verdict unknown, never yes; one that has no order makes it no, whatever
the others do; keys that are done with less leave their time to those after them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from chaos.checkers.findings import NO, UNKNOWN, Findings, cannot_judge
from chaos.checkers.linear import STEPS_MAX, Answer, Bound, Model, search
from chaos.checkers.models import BadOperationError, Counter, Register, versions_told
from chaos.checkers.operations import HistoryError, Operation, by_key, join
from chaos.records import INFO, Verdict
from chaos.seams import Finished

PLACED_SHOWN = 3
VIOLATED_KEYS_MAX = 3  # further ones cost time and tell nothing new


class Linearizable:
    """Of the named workloads, every key on its own (Herlihy and Wing: linearizability is local)."""

    def __init__(
        self,
        name: str,
        workloads: Sequence[str],
        model: Callable[[Sequence[Operation]], Model],
        *,
        partition: Callable[[Iterable[Operation]], dict[str, list[Operation]]] = by_key,
        steps_max: int = STEPS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.workloads = frozenset(workloads)
        self._model = model
        self._partition = partition
        self._steps_max = steps_max
        self._clock = clock

    def check(self, run: Finished) -> Verdict:
        until_s = self._clock() + run.budget_s
        findings = Findings(self.name)
        try:
            keys = self._partition(o for o in join(run.events) if o.workload in self.workloads)
            for left, key in zip(range(len(keys), 0, -1), sorted(keys, key=lambda k: len(keys[k])), strict=True):
                now_s = self._clock()
                bound = Bound(now_s + (until_s - now_s) / left, self._steps_max, clock=self._clock)
                self._judge(key, keys[key], bound, findings)
                if findings.wrong_count >= VIOLATED_KEYS_MAX:
                    break
        except (HistoryError, BadOperationError) as error:
            return cannot_judge(self.name, str(error))
        findings.count("keys", len(keys))
        return findings.verdict("every key has an order", sum(map(len, keys.values())))

    def _judge(self, key: str, operations: Sequence[Operation], bound: Bound, findings: Findings) -> None:
        answer = search(self._model(operations), operations, bound)
        findings.count("steps", answer.steps)
        findings.count("unknown operations", sum(o.outcome == INFO for o in operations))
        if answer.outcome == NO:
            findings.wrong(explain(key, answer, operations))
        elif answer.outcome == UNKNOWN:
            findings.unsure(f"key {key}, {len(operations)} operations: {answer.words}")


def explain(key: str, answer: Answer, operations: Sequence[Operation]) -> str:
    """The longest prefix that has an order, what it can end in, and the operation that has no place after it."""
    stuck = answer.stuck
    assert stuck is not None
    placed = "; ".join(o.describe() for o in answer.order[-PLACED_SHOWN:]) or "none"
    states = ", ".join(str(tuple(s) if isinstance(s, tuple) else s) for s in answer.states)
    beside = sum(
        o is not stuck and o.called_ns < stuck.returned_ns and o.returned_ns > stuck.called_ns for o in operations
    )
    return (
        f"key {key}: no order admits {stuck.describe()}. Placed before it: {len(answer.order)} operations, the last "
        f"ones {placed}. They end in {states}. {beside} operations overlap it."
    )


REGISTER = Linearizable("register", ("register", "reads"), lambda operations: Register(versions_told(operations)))
COUNTER = Linearizable("counter", ("counter",), lambda operations: Counter())
