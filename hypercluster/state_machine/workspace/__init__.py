"""The replicated workspace: files, directories and symlinks as a pure function of the log. See DESIGN.md.

`judge` is called for every file command, chunk put and workspace creation, `flush_log` once after the last command of
an entry, before its changes are taken. A worker calls `replay` for every LogRecord and `take_replayed` when it stores.
"""

from __future__ import annotations

from hypercluster.state_machine.workspace.judging import judge
from hypercluster.state_machine.workspace.oplog import flush_log, trim_log
from hypercluster.state_machine.workspace.replaying import ReplayEffects, replay, take_replayed

__all__ = ["ReplayEffects", "flush_log", "judge", "replay", "take_replayed", "trim_log"]
