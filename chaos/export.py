"""A history in the words of other checkers (CH-6): Knossos' EDN, and JSON lines as Porcupine's programs read them.

Owns: the two forms, `FORMATS` and `export`.
Invariants: only what a linearizability checker may judge is exported: of reads, the linearizable ones. Processes are
integers by their first event; one whose operation ended unknown never comes back, as both tools ask for. Every
operation names its key: both tools judge one object at a time, so pick one, or partition by it.

EDN, one operation's end a line, in the order of time:
    {:process 3, :type :invoke, :f :cas, :value [4 7], :key "r7.0-1", :workload :register, :time 1234}
A compare-and-set expects a version. Values are written once, so the value that had that version stands in its place
and Knossos' cas-register takes it; where nobody saw that version, `nil` does, and `:version` keeps the number.

JSON lines, one operation a line, by the time of its call:
    {"client": 3, "call": 12, "return": 20, "input": {"workload", "op", "key", "value"}, "output": {"outcome", "value"}}
`return` is null where the outcome is unknown: the tool puts the end of the history there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

from chaos.checkers.models import LINEARIZABLE, cas_parts, versions_told
from chaos.checkers.operations import Operation, by_key, join
from chaos.history import events_of
from chaos.records import INFO, INVOKE, OK, Event

READS: Final = frozenset({"read", "read_all", "read_file"})

Formatter = Callable[[Sequence[Operation]], Iterable[str]]


def export(run: Path, to: str) -> str:
    """`to` is a name of FORMATS. Raises HistoryError for a history that contradicts itself."""
    return to_text(events_of(run), to)


def to_text(events: Iterable[Event], to: str) -> str:
    judged = [o for o in join(events) if o.op not in READS or o.level in LINEARIZABLE]
    return "".join(line + "\n" for line in FORMATS[to](judged))


def _numbers(operations: Iterable[Operation]) -> dict[str, int]:
    names = dict.fromkeys(operation.process for operation in operations)
    return dict(zip(names, count(), strict=False))


# --- Knossos --------------------------------------------------------------------------------------


def _edn_lines(operations: Sequence[Operation]) -> Iterable[str]:
    processes = _numbers(operations)
    values = {
        (key, version): value
        for key, of_key in by_key(o for o in operations if o.op in ("read", "write", "cas")).items()
        for value, version in versions_told(of_key).items()
    }
    moments: list[tuple[int, int, str]] = []
    for operation in operations:
        asked = operation.asked
        more: dict[str, Any] = {}
        if operation.op == "cas":
            expected, new = cas_parts(operation)
            asked = [values.get((operation.key, expected)), new]
            more["version"] = expected
        moments.append((operation.called_ns, 0, _edn_line(operation, processes, INVOKE, asked, more)))
        if operation.outcome == INFO:
            continue  # an invoke without an end: concurrent with all that follows
        reads = operation.op in READS or operation.op == "increment"
        shown = operation.result if operation.outcome == OK and reads else asked
        moments.append((operation.returned_ns, 1, _edn_line(operation, processes, operation.outcome, shown, more)))
    moments.sort(key=lambda moment: moment[:2])
    return (line for _, _, line in moments)


def _edn_line(
    operation: Operation, processes: Mapping[str, int], kind: str, value: Any, more: Mapping[str, Any]
) -> str:
    at_ns = operation.called_ns if kind == INVOKE else operation.returned_ns
    fields = {
        "process": str(processes[operation.process]),
        "type": f":{kind}",
        "f": f":{operation.op.replace('_', '-')}",
        "value": edn(value),
        "key": edn(operation.key),
        "workload": f":{operation.workload}",
        **{name: edn(held) for name, held in more.items()},
        **({"error": edn(operation.error)} if operation.error and kind != INVOKE else {}),
        "time": str(at_ns),
    }
    return "{" + ", ".join(f":{name} {text}" for name, text in fields.items()) + "}"


def edn(value: Any) -> str:
    """JSON's values as EDN: vectors, maps with string keys, nil."""
    if value is None:
        return "nil"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(map(edn, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{edn(str(k))} {edn(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


# --- Porcupine ------------------------------------------------------------------------------------


def _json_lines(operations: Sequence[Operation]) -> Iterable[str]:
    processes = _numbers(operations)
    for operation in operations:
        output: dict[str, Any] = {"outcome": operation.outcome, "value": operation.result}
        version = operation.number("version")
        output |= {} if version is None else {"version": version}
        output |= {"error": operation.error} if operation.error else {}
        line = {
            "client": processes[operation.process],
            "call": operation.called_ns,
            "return": None if operation.outcome == INFO else operation.returned_ns,
            "input": {
                "workload": operation.workload,
                "op": operation.op,
                "key": operation.key,
                "value": operation.asked,
            },
            "output": output,
        }
        yield json.dumps(line, separators=(",", ":"))


FORMATS: Final[Mapping[str, Formatter]] = {"edn": _edn_lines, "porcupine": _json_lines}
