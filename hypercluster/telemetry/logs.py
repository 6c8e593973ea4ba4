"""Structured logs: one JSON object a line, on stderr (OBS-2).

Owns: the format. Never: writes files or rotates them (the service manager does), logs a secret or a payload.
Invariants: every line has time, level, node and event; fields given as `extra={"fields": {...}}` stand beside them.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

FIELD_BYTES_MAX = 2_000


class JsonFormatter(logging.Formatter):
    def __init__(self, node_id: str) -> None:
        super().__init__()
        self._node_id = node_id

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "node": self._node_id,
            "logger": record.name,
            "event": record.getMessage()[:FIELD_BYTES_MAX],
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update({k: v for k, v in fields.items() if k not in line})
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1]))[-8 * FIELD_BYTES_MAX :]
        return json.dumps(line, default=str, ensure_ascii=False)


def set_up(node_id: str, level: str) -> None:
    """Sends every log line of this process to stderr as JSON."""
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(JsonFormatter(node_id))
    root = logging.getLogger()
    root.handlers[:] = [to_stderr]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
