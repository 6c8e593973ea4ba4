"""Files that are only written whole, seen as registers: their content a value, the log_index that wrote it a version.

Owns: that view, for levels.py.
Invariants: only paths whose name is never taken away count, so that log_index rises with what they hold; a read whose
version nobody knows (what wrote it has no known outcome, and the final log is lacking) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from chaos.checkers.final import Workspace
from chaos.checkers.operations import Operation, by_key
from chaos.records import OK

TAKES_AWAY: Final = frozenset({"unlink", "rmdir"})
WRITES: Final = frozenset({"create", "overwrite", "rename"})


def versioned_files(files: Sequence[Operation], logs: Sequence[Workspace]) -> dict[str, list[Operation]]:
    """By path: writes and reads as levels.py takes them."""
    logged = {line.client: line.log_index for workspace in logs for line in workspace.log or ()}
    moved = {o.text("source") for o in files if o.op == "rename"}
    found: dict[str, list[Operation]] = {}
    for path, operations in by_key(files).items():
        ops = {o.op for o in operations}
        if path not in moved and "read_file" in ops and not ops & TAKES_AWAY and "append" not in ops:
            found[f"file {path}"] = _as_register(operations, logged)
    return found


def _as_register(operations: Sequence[Operation], logged: dict[tuple[str, int], int]) -> list[Operation]:
    versions: dict[str, int] = {}
    seen: list[Operation] = []
    for operation in operations:
        if operation.op in WRITES:
            value = "" if operation.op == "create" else str(operation.asked)
            version = operation.number("log_index")
            if version is None:
                version = logged.get((operation.text("client_id"), operation.number("client_seq") or 0))
            known = {} if version is None else {"version": version}
            if version is not None:
                versions[value] = version
            seen.append(replace(operation, op="write", asked=value, extra={**operation.extra, **known}))
    for read in operations:
        if read.op != "read_file" or read.outcome != OK:
            continue
        version = 0 if read.result is None else versions.get(str(read.result))
        if version is not None:
            seen.append(replace(read, op="read", extra={**read.extra, "version": version}))
        elif not any(o.op == "write" and o.asked == read.result for o in seen):
            seen.append(replace(read, op="read"))  # nobody wrote it: levels.py says so
    return seen
