"""What there is to see of a cluster over its public API: nodes, op logs, trees, hub keys; as plain JSON values.

Owns: the form of each part of final.json.
Never: judges, writes, or reads from another node than the one asked for.
Invariants: a tree is read from one node at no earlier index than the observer's; bytes are hex, names UTF-8 with
surrogate escapes, as the os module has them.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from blake3 import blake3

from chaos.workloads.content import blocks
from chaos.workloads.hub_reads import NAMESPACE
from chaos.workloads.tree import RECORD_BYTES, records_in
from hypercluster.client.client import Client
from hypercluster.client.file_ops import ROOT
from hypercluster.client.hub import VERSIONS_PAGE, HubValue
from hypercluster.client.journal import command_digest
from hypercluster.client.workspace import Entry, Workspace
from hypercluster.pb.v1 import cluster_pb2, workspace_pb2
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.values import ReadLevel

AT_ONCE = 16
RECORDS_BYTES_MAX = 1 << 20  # of a file whose records are listed
KINDS = {
    workspace_pb2.FILE_KIND_FILE: "file",
    workspace_pb2.FILE_KIND_DIRECTORY: "directory",
    workspace_pb2.FILE_KIND_SYMLINK: "symlink",
}

Json = dict[str, Any]


def node_state(status: cluster_pb2.NodeStatus) -> Json:
    """`digest` is that of the state at `applied_index` (CL-17)."""
    return {
        "role": status.role,
        "term": status.term,
        "leader": status.leader,
        "last_index": status.last_index,
        "commit_index": status.commit_index,
        "applied_index": status.applied_index,
        "base_index": status.base_index,
        "digest": status.digest.hex(),
        "refusing_writes": status.refusing_writes,
        "version": status.version,
    }


class LogPaths:
    """Paths as of each operation of a log, from its beginning: places name directories by inode only."""

    def __init__(self) -> None:
        self._paths = {ROOT.hex(): ""}

    def told(self, line: Json) -> Json:
        """The same line with `path` and `target_path`, where the directory is known."""
        line.update(self._path(line, "path", ""))
        line.update(self._path(line, "target_path", "target_"))
        if line["op"] == "mkdir" and "path" in line:
            self._paths[line["inode"]] = line["path"] + "/"
        elif line["op"] == "rename" and line["inode"] in self._paths:
            self._paths[line["inode"]] = line["target_path"] + "/"
        return line

    def _path(self, line: Json, name: str, prefix: str) -> Json:
        directory = self._paths.get(line.get(f"{prefix}directory", "-"))
        return {} if directory is None else {name: directory + line[f"{prefix}name"]}


def log_record(record: file_pb.LogRecord) -> Json:
    """One accepted operation; `text` is the content of a small write without its padding."""
    file = command_pb.Command.FromString(record.command).file
    op = file.WhichOneof("op") or ""
    line: Json = {
        "log_index": record.log_index,
        "raft_index": record.raft_index,
        "client_id": record.client_id.hex(),
        "client_seq": record.client_seq,
        "committed_at_ns": record.committed_at_ns,
        "command": command_digest(record.command),
        "op": op,
        "inode": record.inode_id.hex(),
        "root": record.root.hex(),
    }
    match op:
        case "create" | "mkdir" | "symlink" | "link" | "unlink" | "rmdir":
            line.update(_place(getattr(file, op).place))
        case "rename":
            line.update(_place(file.rename.source))
            line.update({f"target_{name}": value for name, value in _place(file.rename.target).items()})
        case "write":
            length = len(file.write.inline) or sum(piece.length for piece in file.write.pieces)
            line.update(append=file.write.append, offset=file.write.offset, length=length)
            line["applied_offset"] = record.applied_offset
            if len(file.write.inline) == RECORD_BYTES:
                line["text"] = records_in(file.write.inline)[0]
    return line


def _place(place: file_pb.Place) -> Json:
    return {"directory": place.directory.hex(), "name": os.fsdecode(place.name)}


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A group whose first failure is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed


async def tree_of(workspace: Workspace, *, with_records: bool) -> tuple[Json, Json]:
    """(metadata and content hash by path, size, hash and records of regular files by path) as one node has them."""
    gate = asyncio.Semaphore(AT_ONCE)
    tree: Json = {}
    files: Json = {}

    async def look(entry: Entry) -> None:
        async with gate:
            path, inode = os.fsdecode(entry.path), entry.inode
            tree[path] = _metadata(inode)
            if inode.kind != workspace_pb2.FILE_KIND_FILE:
                return
            size, hasher, kept = 0, blake3(), bytearray()
            async for block in blocks(workspace, inode.inode_id, ReadLevel.BOUNDED_STALE):
                size += len(block)
                hasher.update(block)
                if size <= RECORDS_BYTES_MAX:
                    kept += block
            tree[path]["blake3"] = hasher.hexdigest()
            files[path] = {"size": size, "blake3": hasher.hexdigest()}
            if with_records and size <= RECORDS_BYTES_MAX:
                files[path]["records"] = records_in(bytes(kept))

    async with together() as group:
        async for entry in workspace.walk(level=ReadLevel.BOUNDED_STALE):
            group.create_task(look(entry))
    return dict(sorted(tree.items())), dict(sorted(files.items()))


def _metadata(inode: workspace_pb2.Inode) -> Json:
    found: Json = {
        "kind": KINDS.get(inode.kind, str(inode.kind)),
        "inode": inode.inode_id.hex(),
        "inode_no": inode.inode_no,
        "mode": inode.mode,
        "uid": inode.uid,
        "gid": inode.gid,
        "nlink": inode.nlink,
        "size": inode.size,
        "mtime_ns": inode.mtime_ns,
        "ctime_ns": inode.ctime_ns,
        "content_index": inode.content_index,
        "metadata_index": inode.metadata_index,
    }
    if inode.symlink_target:
        found["symlink_target"] = os.fsdecode(inode.symlink_target)
    return found


async def hub_keys(client: Client, prefix: str) -> Json:
    """Value, version and history of every key, newest first; `complete` says whether the history begins at the first
    value, as far as versions are kept (D-18)."""
    gate = asyncio.Semaphore(AT_ONCE)
    found: Json = {}

    async def look(value: HubValue) -> None:
        async with gate:
            versions = await client.hub.versions(NAMESPACE, value.key)
        found[os.fsdecode(value.key)] = {
            "value": json.loads(value.payload),
            "version": value.version,
            "complete": len(versions) < VERSIONS_PAGE,
            "history": [
                {
                    "value": None if kept.deleted else json.loads(kept.payload),
                    "version": kept.version,
                    "raft_index": kept.raft_index,
                    "ordinal": kept.ordinal,
                    "deleted": kept.deleted,
                }
                for kept in versions
            ],
        }

    async with together() as group:
        async for value in client.hub.list(NAMESPACE, prefix.encode()):
            group.create_task(look(value))
    return dict(sorted(found.items()))
