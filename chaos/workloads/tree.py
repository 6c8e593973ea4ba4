"""One shared workspace as the file workload uses it: its directories, what is known of its paths, and each operation.

Owns: paths to inode ids, as far as they never change; the fixed form of records; one method an operation, which does
it and says what came back.
Never: decides what to do next (files.py).
Invariants: each operation is one command, so that its key and its outcome are those of the command; a path of
`append/` and `over/` is made once and never moved or removed; a read says how fresh the staler of its answers was.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any

from chaos.workloads.content import blocks
from chaos.workloads.hub_reads import LEVELS
from chaos.workloads.logical import LogicalClient
from chaos.workloads.operations import Answer
from hypercluster.client.file_ops import ROOT, FileResult
from hypercluster.client.workspace import Workspace
from hypercluster.errors import RefusedError
from hypercluster.pb.v1 import read_pb2

RECORD_BYTES = 32
DIRECTORIES = ("append", "create", "dir", "over", "own", "source", "target")
WRITTEN = ("append/", "over/", "source/")  # whose inodes are remembered, to be written to
LOOKS_MAX = 3  # a file may be replaced between the look at its path and the reading

Run = Callable[[LogicalClient], Awaitable[Answer]]


def record_of(token: str) -> bytes:
    """32 bytes: the token, spaces, a line end."""
    padded = token.encode().ljust(RECORD_BYTES - 1)
    if len(padded) != RECORD_BYTES - 1:
        raise ValueError(f"token {token!r} is longer than {RECORD_BYTES - 1} bytes")
    return padded + b"\n"


def records_in(content: bytes) -> list[str]:
    """The tokens of a file of records. What is no whole record stands there as '!' and its bytes in hex."""
    return [_token(content[at : at + RECORD_BYTES]) for at in range(0, len(content), RECORD_BYTES)]


def _token(block: bytes) -> str:
    try:
        token = block.decode("ascii").rstrip()
        if token and record_of(token) == block:
            return token
    except ValueError:
        pass
    return "!" + block.hex()


class Tree:
    """Shared by the logical clients of a process; each brings its own connection."""

    def __init__(self, workspace_id: bytes, name: str) -> None:
        self.workspace_id = workspace_id
        self.name = name
        self.directories: dict[str, bytes] = {}
        self.inodes: dict[str, bytes] = {}

    def workspace(self, who: LogicalClient) -> Workspace:
        return Workspace(who.client, self.workspace_id, self.name)

    def place(self, path: str) -> tuple[bytes, bytes]:
        directory, _, name = path.rpartition("/")
        return (self.directories[directory] if directory else ROOT), name.encode()

    async def inode_id(self, who: LogicalClient, path: str) -> bytes:
        """Raises RefusedError with ENOENT while nothing is there."""
        found = self.inodes.get(path)
        if found is None:
            found = self.inodes[path] = (await self.workspace(who).stat(path)).inode_id
        return found

    # --- operations ---------------------------------------------------------------------------------

    def create(self, path: str) -> Run:
        async def run(who: LogicalClient) -> Answer:
            done = await self.workspace(who).ops.create(*self.place(path), exclusive=True)
            if path.startswith(WRITTEN):
                self.inodes[path] = done.inode_id
            return _answer(None, done)

        return run

    def mkdir(self, path: str) -> Run:
        async def run(who: LogicalClient) -> Answer:
            return _answer(None, await self.workspace(who).ops.mkdir(*self.place(path)))

        return run

    def append(self, path: str, token: str) -> Run:
        async def run(who: LogicalClient) -> Answer:
            inode_id = await self.inode_id(who, path)
            done = await self.workspace(who).ops.append(inode_id, record_of(token))
            return _answer(token, done, applied_offset=done.applied_offset)

        return run

    def overwrite(self, path: str, token: str) -> Run:
        async def run(who: LogicalClient) -> Answer:
            inode_id = await self.inode_id(who, path)
            return _answer(token, await self.workspace(who).ops.write(inode_id, record_of(token)))

        return run

    def rename(self, source: str, target: str, token: str) -> Run:
        async def run(who: LogicalClient) -> Answer:
            self.inodes.pop(source, None)
            done = await self.workspace(who).ops.rename(self.place(source), self.place(target))
            return _answer(token, done, source=source)

        return run

    def unlink(self, path: str) -> Run:
        async def run(who: LogicalClient) -> Answer:
            return _answer(None, await self.workspace(who).ops.unlink(*self.place(path)))

        return run

    def rmdir(self, path: str) -> Run:
        async def run(who: LogicalClient) -> Answer:
            return _answer(None, await self.workspace(who).ops.rmdir(*self.place(path)))

        return run

    def read_file(self, path: str, level: str) -> Run:
        async def run(who: LogicalClient) -> Answer:
            if level == "bounded_stale":
                who.client.nodes.next_reader()
            for _ in range(LOOKS_MAX - 1):
                try:
                    return await self._read(who, path, level)
                except RefusedError as error:
                    if error.errno != errno.ENOENT:
                        raise
            return await self._read(who, path, level)

        return run

    async def _read(self, who: LogicalClient, path: str, level: str) -> Answer:
        workspace = self.workspace(who)
        seen = await workspace.look(path, level=LEVELS[level])
        if seen.inode is None:
            return Answer(None, {"absent": True, **_freshness([seen.state], level)})
        states = [seen.state]
        content = b"".join([b async for b in blocks(workspace, seen.inode.inode_id, LEVELS[level], states)])
        records = records_in(content)
        value: Any = records if path.startswith("append/") else "".join(records)
        return Answer(value, {"size": len(content), **_freshness(states, level)})


def _answer(value: Any, done: FileResult, **more: Any) -> Answer:
    extra = {
        "log_index": done.log_index,
        "raft_index": done.raft_index,
        "root": done.root.hex(),
        "inode": done.inode_id.hex(),
        **more,
    }
    return Answer(value, extra)


def _freshness(states: list[read_pb2.ReadState], level: str) -> dict[str, Any]:
    extra: dict[str, Any] = {"raft_index": min(s.applied_index for s in states), "node": states[-1].node_id}
    if level == "bounded_stale":
        extra["staleness_ms"] = max(s.staleness_ms for s in states)
    return extra
