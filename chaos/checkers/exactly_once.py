"""What was acknowledged was applied once, what failed never, what is unknown at most once, and nothing else was (D-7).

Owns: the verdict `exactly_once`: the keys (client_id, client_seq) of file operations against the op logs, and the
values of hub keys, each of them asked for once, against the versions that the cluster kept.
Invariants: an acknowledged operation stands in the log at the log_index and Raft index it was told, with what was asked
for; an operation that ended without a word of its key accounts for one record that nobody else asked for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Final

from chaos.checkers.final import FinalError, HubKey, HubVersion, LogLine, hub_keys, used_by, workspaces
from chaos.checkers.findings import Findings, cannot_judge
from chaos.checkers.models import BadOperationError, cas_parts, frozen
from chaos.checkers.operations import HistoryError, Operation, by_key, clients_of, join
from chaos.records import FAIL, INFO, OK, Verdict
from chaos.seams import Finished

FILE_OPS: Final[Mapping[str, str]] = {
    "create": "create",
    "append": "write",
    "overwrite": "write",
    "rename": "rename",
    "unlink": "unlink",
    "mkdir": "mkdir",
    "rmdir": "rmdir",
}
HUB_WORKLOADS: Final = frozenset({"register", "counter"})

Key = tuple[str, int]


class ExactlyOnceChecker:
    name = "exactly_once"
    workloads = frozenset({"files", "register", "counter"})

    def check(self, run: Finished) -> Verdict:
        findings = Findings(self.name)
        try:
            operations = join(run.events)
            files = [o for o in operations if o.workload == "files" and o.op in FILE_OPS]
            hub = by_key(o for o in operations if o.workload in HUB_WORKLOADS and o.op != "read")
            logs, keys = workspaces(run), hub_keys(run)
            if files and (logs is None or any(w.log is None for w in logs)):
                findings.unsure("the final op logs are lacking")
            elif files:
                ours = used_by(logs or (), clients_of(files))
                _judge_logs(files, [line for w in ours for line in w.log or ()], findings)
            for key, writes in hub.items():
                if keys is None:
                    findings.unsure("the final state of the hub is lacking")
                    break
                _judge_versions(key, writes, keys.get(key), findings)
        except (HistoryError, FinalError, BadOperationError) as error:
            return cannot_judge(self.name, str(error))
        return findings.verdict("nothing was lost and nothing applied twice", len(files) + sum(map(len, hub.values())))


# --- op logs --------------------------------------------------------------------------------------


def _key_of(operation: Operation) -> Key | None:
    seq = operation.number("client_seq", "seq")
    client = operation.text("client_id")
    return (client, seq) if client and seq is not None else None


def _judge_logs(files: Sequence[Operation], log: Sequence[LogLine], findings: Findings) -> None:
    logged: dict[Key, list[LogLine]] = defaultdict(list)
    for line in log:
        logged[line.client].append(line)
    asked: dict[Key, list[Operation]] = defaultdict(list)
    without_key = 0
    for operation in files:
        key = _key_of(operation)
        if key is not None:
            asked[key].append(operation)
        elif operation.outcome == OK:
            findings.unsure(f"an acknowledgement without a key: {operation.describe()}")
        else:
            without_key += operation.outcome == INFO
    for key, sharing in asked.items():
        # What was turned away leaves its key free (D-3): the next command of that client may have it.
        standing = [o for o in sharing if o.outcome != FAIL] or sharing[:1]
        if len(standing) > 1:
            findings.wrong(f"one key for two: {standing[0].describe()}; {standing[1].describe()}")
        _judge_one(standing[0], logged.get(key, []), findings)
    foreign = [line for key, lines in logged.items() if key not in asked for line in lines]
    findings.count("log records", len(log))
    if len(foreign) > without_key:
        shown = f"log_index {foreign[0].log_index}, key {foreign[0].client}"
        findings.wrong(f"{len(foreign)} log records that nobody asked for, at most {without_key} may be: {shown}")


def _judge_one(operation: Operation, lines: Sequence[LogLine], findings: Findings) -> None:
    if len(lines) > 1:
        places = ", ".join(str(line.log_index) for line in lines)
        findings.wrong(f"applied {len(lines)} times, at log_index {places}: {operation.describe()}")
    if operation.outcome == FAIL and lines:
        findings.wrong(f"at log_index {lines[0].log_index}, though it failed: {operation.describe()}")
    if operation.outcome == INFO:
        findings.count("unknown, and applied" if lines else "unknown, and not applied")
    if operation.outcome == OK and not lines:
        findings.wrong(f"not in the log: {operation.describe()}")
    for line in lines[:1]:
        _judge_place(operation, line, findings)


def _judge_place(operation: Operation, line: LogLine, findings: Findings) -> None:
    told = {"log_index": operation.number("log_index"), "raft_index": operation.number("raft_index")}
    has = {"log_index": line.log_index, "raft_index": line.raft_index}
    root = operation.text("root")
    if operation.outcome == OK and any(v is not None and has[n] not in (None, v) for n, v in told.items()):
        findings.wrong(f"told {told}, stands at {has}: {operation.describe()}")
    if operation.outcome == OK and root and line.root and root != line.root:
        findings.wrong(f"told root {root[:16]}, the log has {line.root[:16]}: {operation.describe()}")
    op, name, text = line.line.get("op"), line.line.get("name"), line.line.get("text")
    if op is not None and op != FILE_OPS[operation.op]:
        findings.wrong(f"stands in the log as {op}: {operation.describe()}")
    elif operation.op in ("append", "overwrite"):
        if text is not None and text != operation.asked:
            findings.wrong(f"stands in the log with {text!r}: {operation.describe()}")
    elif name is not None and operation.op != "rename" and name != operation.key.rpartition("/")[2]:
        findings.wrong(f"stands in the log as {name!r}: {operation.describe()}")


# --- versions of hub keys -------------------------------------------------------------------------


def _value_of(operation: Operation) -> Hashable | None:
    """What it wrote; None for an increment that was not told its number."""
    match operation.op:
        case "increment":
            return frozen(operation.result) if operation.outcome == OK else None
        case "cas":
            return cas_parts(operation)[1]
        case _:
            return frozen(operation.asked)


def _judge_versions(key: str, writes: Sequence[Operation], there: HubKey | None, findings: Findings) -> None:
    history = [] if there is None else [v for v in there.history if not v.deleted]
    found = Counter(frozen(v.value) for v in history)
    versions = {frozen(v.value): v for v in history}
    kept_from = 0 if there is None or there.complete else min((v.version for v in history), default=0)
    asked: dict[Hashable, Operation] = {}
    unnamed = 0
    for write in writes:
        value = _value_of(write)
        if value is None:
            unnamed += write.outcome == INFO
            continue
        asked[value] = write
        if write.outcome == OK:
            _judge_written(key, write, versions.get(value), kept_from, findings)
        elif write.outcome == FAIL and value in found:
            findings.wrong(f"{key}: is there, though it failed: {write.describe()}")
        elif write.outcome == INFO:
            findings.count("unknown, and applied" if value in found else "unknown, and not seen")
    for value, times in found.items():
        if times > 1:
            findings.wrong(f"{key}: {value!r} was written {times} times")
    foreign = [value for value in found if value not in asked]
    if len(foreign) > unnamed:
        findings.wrong(f"{key}: nobody asked for {foreign[0]!r}; {len(foreign)} such values, at most {unnamed} may be")


def _judge_written(key: str, write: Operation, there: HubVersion | None, kept_from: int, findings: Findings) -> None:
    version, raft_index = write.number("version"), write.number("raft_index")
    if there is None:
        if version is not None and version < kept_from:
            findings.count("older than what was kept")
        else:
            findings.wrong(f"{key}: lost: {write.describe()}")
    elif version is not None and version != there.version:
        findings.wrong(f"{key}: told version {version}, has {there.version}: {write.describe()}")
    elif raft_index is not None and there.raft_index not in (None, raft_index):
        findings.wrong(f"{key}: told Raft index {raft_index}, has {there.raft_index}: {write.describe()}")
