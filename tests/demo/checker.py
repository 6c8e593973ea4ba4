"""Was anything acknowledged lost, or anything applied twice? Read from what clients wrote down and what the log holds.

Two independent witnesses are compared: the clients' journals, written as they asked and were told, and the history of
the cluster, fetched over plain gRPC: the op log of a workspace (WatchLog) and the versions of hub keys. This file
imports generated messages only and nothing else of the project.

A command counts as there when the history has it once, under its key, with the very bytes that were asked for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from blake3 import blake3

from hypercluster.pb.v1 import hub_pb2, workspace_command_pb2, workspace_pb2

Key = tuple[str, int]  # (client id in hex, seq)
EXAMPLES = 5


@dataclass
class Command:
    """One key of one client, as its journal tells it."""

    kind: str = ""
    digest: str = ""
    hub: tuple[str, str, str] = ("", "", "")  # namespace, key, value
    outcome: str = "info"  # until told otherwise: an invoke without an end is unknown
    line: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    commands: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)  # in the history, though no client asked, or was told no
    disagreeing: list[str] = field(default_factory=list)  # log and journal differ on an index
    gaps: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not (self.lost or self.twice or self.unasked or self.disagreeing or self.gaps) and self.acknowledged > 0

    def lines(self) -> list[str]:
        out = [
            f"commands {self.commands}   acknowledged {self.acknowledged}   refused {self.refused}"
            f"   unknown {self.unknown}",
            f"lost {len(self.lost)}   applied twice {len(self.twice)}   never asked for {len(self.unasked)}"
            f"   told another index {len(self.disagreeing)}   gaps in the log {len(self.gaps)}",
        ]
        for name in ("lost", "twice", "unasked", "disagreeing", "gaps"):
            out += [f"  {name}: {example}" for example in getattr(self, name)[:EXAMPLES]]
        return out


@dataclass(frozen=True)
class LogLine:
    """One accepted file operation. `command` is the serialized Command; for a write, the inode and where it began."""

    client: str
    seq: int
    log_index: int
    raft_index: int
    command: bytes
    inode_id: bytes = b""
    applied_offset: int = 0

    def digest(self) -> str:
        """As journals name a command's bytes."""
        return blake3(self.command).hexdigest(16)


def read_journals(paths: Iterable[Path]) -> dict[Key, Command]:
    found: dict[Key, Command] = {}
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for text in lines:
                if not text.endswith("\n"):
                    continue  # the process was killed in the middle of a line
                line = json.loads(text)
                command = found.setdefault((line["client"], line["seq"]), Command())
                if line["type"] == "invoke":
                    command.kind, command.digest = line["kind"], line["command"]
                    command.hub = (line.get("namespace", ""), line.get("key", ""), line.get("value", ""))
                else:
                    command.outcome, command.line = line["type"], line
    return found


async def fetch_log(channel: grpc.aio.Channel, workspace_id: bytes) -> list[LogLine]:
    """The whole op log, as any client may read it."""
    watch = channel.unary_stream(
        "/hypercluster.v1.WorkspaceService/WatchLog",
        request_serializer=workspace_pb2.WatchLogRequest.SerializeToString,
        response_deserializer=workspace_pb2.WatchLogResponse.FromString,
    )
    call = watch(workspace_pb2.WatchLogRequest(workspace_id=workspace_id, from_index=1))
    found: list[LogLine] = []
    async for event in call:
        if event.HasField("snapshot_needed"):
            raise RuntimeError(f"the log is kept from {event.snapshot_needed.retained_from} only")
        if event.HasField("caught_up"):
            break
        for batch in event.slice.batches:
            found += map(_log_line, workspace_command_pb2.LogBatch.FromString(batch).records)
    call.cancel()
    return found


def _log_line(record: workspace_command_pb2.LogRecord) -> LogLine:
    return LogLine(
        record.client_id.hex(),
        record.client_seq,
        record.log_index,
        record.raft_index,
        record.command,
        record.inode_id,
        record.applied_offset,
    )


async def fetch_versions(
    channel: grpc.aio.Channel, keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """Every value each hub key ever had, with its version."""
    versions = channel.unary_unary(
        "/hypercluster.v1.HubService/Versions",
        request_serializer=hub_pb2.HubVersionsRequest.SerializeToString,
        response_deserializer=hub_pb2.HubVersionsResponse.FromString,
    )
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for namespace, key in keys:
        request = hub_pb2.HubVersionsRequest(namespace=namespace, key=key.encode(), limit=100)
        answer = await versions(request, timeout=10)
        found[namespace, key] = [(v.payload.decode(), v.version) for v in answer.versions if not v.deleted]
    return found


def check(
    commands: dict[Key, Command], log: list[LogLine], versions: dict[tuple[str, str], list[tuple[str, int]]]
) -> Report:
    report = Report(commands=len(commands))
    outcomes = Counter(command.outcome for command in commands.values())
    report.acknowledged, report.refused, report.unknown = outcomes["ok"], outcomes["fail"], outcomes["info"]
    _check_log(report, commands, log)
    _check_hub(report, commands, versions)
    return report


def _check_log(report: Report, commands: dict[Key, Command], log: list[LogLine]) -> None:
    by_key: dict[Key, list[LogLine]] = {}
    for position, line in enumerate(log, start=1):
        by_key.setdefault((line.client, line.seq), []).append(line)
        if line.log_index != position:
            report.gaps.append(f"entry {position} of the log has log_index {line.log_index}")
    for key, lines in by_key.items():
        name = f"client {key[0]} seq {key[1]}"
        command = commands.get(key)
        if len(lines) > 1:
            report.twice.append(f"{name} at log_index {[line.log_index for line in lines]}")
        if command is None or command.outcome == "fail":
            report.unasked.append(f"{name} at log_index {lines[0].log_index}")
        elif command.digest not in {line.digest() for line in lines}:
            report.disagreeing.append(f"{name}: another command stands at log_index {lines[0].log_index}")
    for key, command in commands.items():
        if command.kind != "file" or command.outcome != "ok":
            continue
        lines = by_key.get(key, [])
        name = f"client {key[0]} seq {key[1]}"
        if not lines:
            report.lost.append(f"{name}, acknowledged at log_index {command.line['log_index']}")
        elif command.line["log_index"] not in {line.log_index for line in lines}:
            report.disagreeing.append(f"{name}: told {command.line['log_index']}, the log has {lines[0].log_index}")


def _check_hub(
    report: Report, commands: dict[Key, Command], versions: dict[tuple[str, str], list[tuple[str, int]]]
) -> None:
    # A command that was never judged may be sent again under another key: then its value may well be there.
    asked = {command.hub for command in commands.values() if command.kind == "hub" and command.outcome != "fail"}
    for key, command in commands.items():
        if command.kind != "hub":
            continue
        namespace, hub_key, value = command.hub
        seen = [version for payload, version in versions[namespace, hub_key] if payload == value]
        name = f"client {key[0]} seq {key[1]} ({hub_key})"
        if len(seen) > 1:
            report.twice.append(f"{name} at versions {seen}")
        if command.outcome == "ok" and not seen:
            report.lost.append(f"{name}, acknowledged as version {command.line['version']}")
        if command.outcome == "ok" and seen and command.line["version"] not in seen:
            report.disagreeing.append(f"{name}: told {command.line['version']}, the history has {seen}")
        if command.outcome == "fail" and seen and command.hub not in asked:
            report.unasked.append(f"{name} at version {seen[0]}")


def hub_keys(commands: dict[Key, Command]) -> list[tuple[str, str]]:
    return sorted({command.hub[:2] for command in commands.values() if command.kind == "hub"})
