"""The replicated workspace: files, directories and symlinks as a pure function of the log. See DESIGN.md.

`judge` is called for every file command, chunk put and workspace creation, `flush_log` once after the last command of
an entry, before its changes are taken. A worker calls `replay` for every LogRecord and `take_replayed` when it stores.
"""

from __future__ import annotations

from hypercluster.state_machine.workspace.judging import find_workspace, judge
from hypercluster.state_machine.workspace.oplog import flush_log, trim_log
from hypercluster.state_machine.workspace.reaping import judge_open_leases, judge_reap
from hypercluster.state_machine.workspace.replaying import ReplayEffects, replay, take_replayed
from hypercluster.state_machine.workspace.retention import collect_chunks
from hypercluster.state_machine.workspace.snapshots import drop_snapshot, mark_snapshot

__all__ = [
    "ReplayEffects",
    "collect_chunks",
    "drop_snapshot",
    "find_workspace",
    "flush_log",
    "judge",
    "judge_open_leases",
    "judge_reap",
    "mark_snapshot",
    "replay",
    "take_replayed",
    "trim_log",
]
