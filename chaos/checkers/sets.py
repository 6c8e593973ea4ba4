"""Additions to a set: acknowledged ones are there once and stay, unknown ones may be, failed ones never are (CH-6).

Each element is a hub key `KEY-NUMBER` of its own, made with expected_version 0 (HUB-3): so it is written once.
Owns: the verdict `set`, over every listing and over the final state.
Invariants: a listing shows whatever was acknowledged, or seen by another listing, before it was called, and nothing
that was asked for after it returned. Elements are never removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from chaos.checkers.final import FinalError, HubKey, hub_keys
from chaos.checkers.findings import Findings, cannot_judge
from chaos.checkers.operations import HistoryError, Operation, by_key, join
from chaos.records import FAIL, OK, Verdict
from chaos.seams import Finished

SHOWN_MAX = 10


@dataclass(slots=True)
class _Element:
    """When it was first asked for, when it was first known to be there; in nanoseconds."""

    asked: list[Operation] = field(default_factory=list)
    there_ns: int | None = None
    witness: str = ""

    def may_be_there(self, by_ns: int) -> bool:
        return any(o.outcome != FAIL and o.called_ns <= by_ns for o in self.asked)

    def must_be_there(self, at_ns: int) -> bool:
        return self.there_ns is not None and self.there_ns < at_ns

    def seen(self, at_ns: int, witness: str) -> None:
        if self.there_ns is None or at_ns < self.there_ns:
            self.there_ns, self.witness = at_ns, witness


class SetChecker:
    name = "set"
    workloads = frozenset({"set"})

    def check(self, run: Finished) -> Verdict:
        findings = Findings(self.name)
        try:
            keys = by_key(o for o in join(run.events) if o.workload in self.workloads)
            final = hub_keys(run)
        except (HistoryError, FinalError) as error:
            return cannot_judge(self.name, str(error))
        judged = 0
        for key, operations in keys.items():
            elements = _elements(operations)
            judged += _judge_listings(key, operations, elements, findings)
            if final is not None:
                _judge_final(key, elements, final, findings)
        findings.count("keys", len(keys))
        if final is None and keys:
            findings.unsure("the final state of the hub is lacking")
        return findings.verdict("every listing and the final state hold what they must", judged)


def _elements(operations: Iterable[Operation]) -> dict[int, _Element]:
    elements: dict[int, _Element] = {}
    for operation in operations:
        if operation.op == "add" and isinstance(operation.asked, int):
            element = elements.setdefault(operation.asked, _Element())
            element.asked.append(operation)
            if operation.outcome == OK:
                element.seen(operation.returned_ns, operation.describe())
    return elements


def _judge_listings(
    key: str, operations: Sequence[Operation], elements: dict[int, _Element], findings: Findings
) -> int:
    listings = [o for o in operations if o.op == "read_all" and o.outcome == OK]
    for listing in sorted(listings, key=lambda o: o.returned_ns):
        if not isinstance(listing.result, list):
            findings.unsure(f"a listing without a list: {listing.describe()}")
            continue
        found = Counter(listing.result)
        what = f"{listing.process} read_all {key} from {listing.called_ns} to {listing.returned_ns}"
        _judge_found(what, found, elements, listing.returned_ns, findings)
        lacking = [n for n, e in elements.items() if e.must_be_there(listing.called_ns) and n not in found]
        _lacks(what, lacking, elements, findings)
        for number in found.keys() & elements.keys():
            elements[number].seen(listing.returned_ns, what)
    return len(listings) + sum(len(element.asked) for element in elements.values())


def _judge_found(what: str, found: Counter[int], elements: dict[int, _Element], by_ns: int, findings: Findings) -> None:
    for number, times in found.items():
        element = elements.get(number)
        if times > 1:
            findings.wrong(f"{what}: {number} is there {times} times")
        if element is None:
            findings.wrong(f"{what}: {number} is there, and nobody added it")
        elif not element.may_be_there(by_ns):
            findings.wrong(f"{what}: {number} is there: {element.asked[0].describe()}")


def _lacks(what: str, lacking: Sequence[int], elements: dict[int, _Element], findings: Findings) -> None:
    if lacking:
        shown = ", ".join(map(str, lacking[:SHOWN_MAX]))
        witness = elements[lacking[0]].witness
        findings.wrong(f"{what}: lacks {shown} ({len(lacking)} in all), the first known from {witness}")


def _judge_final(key: str, elements: dict[int, _Element], final: dict[str, HubKey], findings: Findings) -> None:
    prefix = f"{key}-"
    found = {name[len(prefix) :]: there for name, there in final.items() if name.startswith(prefix)}
    numbers = Counter(int(suffix) for suffix in found if suffix.isdigit())
    what = f"final state of {key}"
    _judge_found(what, numbers, elements, 1 << 62, findings)
    _lacks(what, [n for n, e in elements.items() if e.there_ns is not None and n not in numbers], elements, findings)
    for suffix, there in found.items():
        if str(there.value) != suffix:
            findings.wrong(f"{what}: {prefix}{suffix} holds {there.value!r}")
        if len(there.history) > 1:
            findings.wrong(f"{what}: {prefix}{suffix} was written {len(there.history)} times: {there.history}")
