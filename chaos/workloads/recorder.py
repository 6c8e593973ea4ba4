"""The history of one workload process, as it is written down (CH-5).

Owns: the file of events, its clock and its bounds.
Never: decides how an operation ended.
Invariants: an event is with the operating system when the call returns, so that a killed process leaves whole lines
but for the last; a process has one open operation at most, which ends once; no event of a process follows its info.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from chaos.records import INFO, INVOKE, LINE_BYTES_MAX, Event, encode

HISTORY_BYTES_MAX = 4 << 30


class HistoryFullError(Exception):
    """The run is invalid: it went beyond a bound, or did what a history must not hold."""


class Recorder:
    """Use it as a context manager; a file that exists already is never written to."""

    def __init__(self, path: Path, workload: str) -> None:
        self._workload = workload
        self._open: dict[str, tuple[str, str, str]] = {}
        self._gone: set[str] = set()
        self._written_bytes = 0
        self._lines = path.open("x", encoding="utf-8", buffering=1)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()

    def invoke(
        self, process: str, op: str, key: str, value: Any, level: str = "", extra: Mapping[str, Any] | None = None
    ) -> None:
        if process in self._gone or process in self._open:
            raise HistoryFullError(f"{process} begins {op} {key} though it has not ended, or is gone")
        self._open[process] = (op, key, level)
        self._write(process, INVOKE, value, "", extra)

    def end(
        self, process: str, kind: str, value: Any = None, error: str = "", extra: Mapping[str, Any] | None = None
    ) -> None:
        if process not in self._open:
            raise HistoryFullError(f"{process} ends what it did not begin")
        self._write(process, kind, value, error, extra)
        del self._open[process]
        if kind == INFO:
            self._gone.add(process)

    def _write(self, process: str, kind: str, value: Any, error: str, extra: Mapping[str, Any] | None) -> None:
        op, key, level = self._open[process]
        now_ns = time.monotonic_ns()
        line = encode(Event(now_ns, process, kind, self._workload, op, key, value, level, error, extra or {})) + "\n"
        if len(line) > LINE_BYTES_MAX:
            raise HistoryFullError(f"an event of {len(line)} bytes, limit LINE_BYTES_MAX is {LINE_BYTES_MAX}")
        self._written_bytes += len(line)
        if self._written_bytes > HISTORY_BYTES_MAX:
            raise HistoryFullError(f"a history of {self._written_bytes} bytes, limit is {HISTORY_BYTES_MAX}")
        self._lines.write(line)
