"""Appends to shared files: each acknowledged one is there once, whole, in an order that respects real time (WS-22).

Owns: the verdict `append_order`, over what the files hold in the end and over every read of them before.
Invariants: a file is a row of records of RECORD_BYTES; the offset that an acknowledgement names is where its record
stands; offsets rise with log_index; a record that was acknowledged before another one was asked for stands before it
(which covers the order of each client). What was read is a beginning of what is there in the end, long enough to hold
what had been acknowledged, and too short for what had not been asked for. Linearizable reads and all others differ in
the first of these bounds only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from chaos.checkers.final import FinalError, used_by, workspaces
from chaos.checkers.findings import Findings, cannot_judge
from chaos.checkers.operations import HistoryError, Operation, by_key, clients_of, join
from chaos.records import FAIL, INFO, OK, Verdict
from chaos.seams import Finished

RECORD_BYTES: Final = 32


class AppendOrderChecker:
    name = "append_order"
    workloads = frozenset({"files"})

    def check(self, run: Finished) -> Verdict:
        findings = Findings(self.name)
        try:
            operations = [o for o in join(run.events) if o.workload in self.workloads]
            files = _files(run, clients_of(operations))
        except (HistoryError, FinalError) as error:
            return cannot_judge(self.name, str(error))
        judged = 0
        for path, of_path in by_key(operations).items():
            appends = [o for o in of_path if o.op == "append"]
            if not appends:
                continue
            judged += len(appends)
            if files is None:
                findings.unsure("the final state of the files is lacking")
            else:
                _judge(path, appends, of_path, files.get(path), findings)
        return findings.verdict("every append is there once, whole and in order", judged)


def _files(run: Finished, clients: set[str]) -> dict[str, Any] | None:
    found = workspaces(run)
    ours = used_by(found or (), clients)
    if found is None or any(w.files is None for w in ours):
        return None
    return {path: there for w in ours for path, there in (w.files or {}).items()}


def _judge(
    path: str,
    appends: Sequence[Operation],
    operations: Sequence[Operation],
    there: Mapping[str, Any] | None,
    findings: Findings,
) -> None:
    records = [str(record).strip() for record in (there or {}).get("records", [])]
    if there is not None and "records" not in there and there.get("size"):
        findings.unsure(f"the observer wrote down no records of {path}")
        return
    if there is not None and there.get("size", len(records) * RECORD_BYTES) != len(records) * RECORD_BYTES:
        findings.wrong(f"{path}: torn: {there['size']} bytes, {len(records)} records of {RECORD_BYTES}")
    places = {record: place for place, record in enumerate(records)}
    _judge_presence(path, appends, records, findings)
    _judge_offsets(path, appends, places, findings)
    _judge_real_time(path, appends, places, findings)
    for read in operations:
        if read.op == "read_file" and read.outcome == OK and isinstance(read.result, list):
            _judge_read(read, appends, records, places, findings)


def _token(append: Operation) -> str:
    return str(append.asked).strip()


def _judge_presence(path: str, appends: Sequence[Operation], records: Sequence[str], findings: Findings) -> None:
    found = Counter(records)
    asked = {_token(append): append for append in appends}
    for record, times in found.items():
        append = asked.get(record)
        if times > 1:
            findings.wrong(f"{path}: {record!r} is there {times} times")
        if append is None:
            findings.wrong(f"{path}: {record!r} is there, and nobody appended it: torn or foreign")
        elif append.outcome == FAIL:
            findings.wrong(f"{path}: is there, though it failed: {append.describe()}")
    for record, append in asked.items():
        if append.outcome == OK and record not in found:
            findings.wrong(f"{path}: lost: {append.describe()}")
        if append.outcome == INFO:
            findings.count("unknown, and there" if record in found else "unknown, and not there")


def _judge_offsets(path: str, appends: Sequence[Operation], places: Mapping[str, int], findings: Findings) -> None:
    placed = [(o, places[_token(o)]) for o in appends if o.outcome == OK and _token(o) in places]
    for append, place in placed:
        offset = append.number("applied_offset")
        if offset is not None and offset != place * RECORD_BYTES:
            findings.wrong(f"{path}: told offset {offset}, stands at {place * RECORD_BYTES}: {append.describe()}")
    logged = [(index, place, o) for o, place in placed if (index := o.number("log_index")) is not None]
    logged.sort(key=lambda entry: entry[0])
    for (before_index, before, _), (index, place, append) in pairwise(logged):
        if place < before:
            findings.wrong(f"{path}: log_index {index} stands before {before_index}: {append.describe()}")


def _judge_real_time(path: str, appends: Sequence[Operation], places: Mapping[str, int], findings: Findings) -> None:
    """Walks from the beginning: nothing was acknowledged before something that stands before it was called."""
    called: Operation | None = None
    by_place = sorted((o for o in appends if _token(o) in places), key=lambda o: places[_token(o)])
    for append in by_place:
        if called is not None and append.returned_ns < called.called_ns:
            findings.wrong(f"{path}: stands after what was asked for later: {append.describe()}; {called.describe()}")
        if called is None or append.called_ns > called.called_ns:
            called = append


def _judge_read(
    read: Operation,
    appends: Sequence[Operation],
    records: Sequence[str],
    places: Mapping[str, int],
    findings: Findings,
) -> None:
    found = [str(record).strip() for record in read.result]
    findings.count("reads")
    if found != list(records[: len(found)]):
        findings.wrong(f"what {read.process} read at {read.called_ns} is no beginning of {read.key}: {found[-3:]}")
        return
    for append in appends:
        place = places.get(_token(append))
        if place is None:
            continue
        if place < len(found) and append.called_ns > read.returned_ns:
            findings.wrong(f"{read.process} read at {read.called_ns} what was asked for later: {append.describe()}")
        linearizable = read.level in ("", "linearizable")
        if linearizable and place >= len(found) and append.returned_ns < read.called_ns:
            findings.wrong(f"{read.process} read {read.key} at {read.called_ns} without {append.describe()}")
