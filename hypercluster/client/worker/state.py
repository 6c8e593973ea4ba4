"""What a worker says of itself: its status, on screen and in a file, and the failure that stopped it.

Owns: `WorkerStatus`, `Failure`, and the status file in the state directory, replaced as a whole.
Never: decides anything.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path

from hypercluster.client.sqlite_store import SqliteStore

STATUS_FILE = "status.json"
FAILURE_RECORD = "failure"


class WorkerState(Enum):
    STARTING = "starting"
    RECOVERING = "recovering"  # ends what was begun before it was killed
    REBUILDING = "rebuilding"  # the directory is being built from a snapshot
    CATCHING_UP = "catching up"
    LIVE = "live"
    STOPPED = "stopped"  # by a failure; the directory stays as it is


@dataclass(frozen=True, slots=True)
class Failure:
    """last_apply_error (WS-5). `kept`: it is there again after a restart, until an operator clears it."""

    log_index: int
    errno: int
    message: str
    kept: bool

    def write(self, store: SqliteStore) -> None:
        store.put_record(FAILURE_RECORD, json.dumps(asdict(self)).encode())
        store.commit_batch(sync=True)

    @staticmethod
    def read(store: SqliteStore) -> Failure | None:
        record = store.record(FAILURE_RECORD)
        return None if record is None else Failure(**json.loads(record))

    @staticmethod
    def clear(store: SqliteStore) -> None:
        store.put_record(FAILURE_RECORD, None)


@dataclass(slots=True)
class WorkerStatus:
    """Shown by `worker status`. Indexes are log indexes of the workspace."""

    workspace: str
    worker: str
    directory: str
    state: WorkerState = WorkerState.STARTING
    applied_index: int = 0
    cluster_index: int = 0  # as far as the worker has heard
    root: str = ""
    rebuilds: int = 0
    last_problem: str = ""  # what the last broken stream said
    failure: Failure | None = None
    problems: dict[str, str] = field(default_factory=dict)  # path -> what could not be set there

    def as_json(self) -> dict[str, object]:
        shown = asdict(self)
        shown["state"] = self.state.value
        shown["read_only"] = self.failure is not None
        shown["pid"] = os.getpid()
        shown["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return shown


def write_status(state: Path, status: WorkerStatus) -> None:
    """By rename, so that a reader finds a whole file. It is news, not state: nothing is synced."""
    aside = state / f"{STATUS_FILE}.new"
    aside.write_text(json.dumps(status.as_json(), indent=1) + "\n")
    aside.replace(state / STATUS_FILE)


def read_status(state: Path) -> dict[str, object] | None:
    try:
        found = json.loads((state / STATUS_FILE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None
