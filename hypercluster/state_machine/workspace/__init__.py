"""The replicated workspace: files, directories and symlinks as a pure function of the log. See DESIGN.md.

`judge` is called for every file command, chunk put and workspace creation, `flush_log` once after the last command of
an entry, before its changes are taken.
"""

from __future__ import annotations

from hypercluster.state_machine.workspace.judging import judge
from hypercluster.state_machine.workspace.oplog import flush_log, trim_log

__all__ = ["flush_log", "judge", "trim_log"]
