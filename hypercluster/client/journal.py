"""A client's own record of what it asked and what it was told, for checkers (CH-5).

Owns: `FileJournal`, JSON lines with one stream a file: invoke, ok, fail (certainly not), info (unknown).
Never: decides anything; the lane says what happened.
Invariants: the invoke line is written before the command can reach the network; lines are flushed to the
operating system one by one, so that a killed process leaves whole lines but for the last.
A line names its key (client, seq), the hash of the command's bytes, and for an outcome the Raft index, log_index,
version and reason. `at_ns` comes from the clock the lane runs under.
"""

from __future__ import annotations

import json
from typing import IO

from blake3 import blake3

from hypercluster.client.lane_types import Settled, reason_name
from hypercluster.pb.v1.command_pb2 import Command


def command_digest(command: bytes) -> str:
    """How journals and checkers name a command's bytes: the first 16 bytes of BLAKE3, in hex."""
    return blake3(command).hexdigest(16)


def _what(command: bytes) -> dict[str, object]:
    """Which system it is for, and for the hub the key and value: what a checker finds it by."""
    parsed = Command.FromString(command)
    kind = parsed.WhichOneof("kind")
    if kind != "hub":
        return {"kind": kind}
    key, value = parsed.hub.key.decode(errors="replace"), parsed.hub.payload.decode(errors="replace")
    return {"kind": kind, "namespace": parsed.hub.namespace, "key": key, "value": value}


class FileJournal:
    """Writes to an open text file."""

    def __init__(self, lines: IO[str], process: str) -> None:
        self._lines = lines
        self._process = process

    def record(
        self, kind: str, at_ns: int, client_id: bytes, seq: int, command: bytes, settled: Settled | None
    ) -> None:
        line: dict[str, object] = {
            "type": kind,
            "process": self._process,
            "time": at_ns,
            "client": client_id.hex(),
            "seq": seq,
            "command": command_digest(command),
            **_what(command),
        }
        if settled is not None:
            line["verdict"] = settled.verdict.value
            line["reason"] = reason_name(settled.reason)
            line["raft_index"] = settled.raft_index
            line["version"] = settled.version
            if settled.file is not None:
                line["log_index"] = settled.file.log_index
                line["errno"] = settled.file.errno
        self._lines.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._lines.flush()
