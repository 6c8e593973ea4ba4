"""File commands of one workspace by inode id: each builds one command, submits it and returns what was judged.

Owns: the typed face of workspace_command.proto, `FileResult`, and the order "chunks first, then the write".
Never: paths (workspace.py resolves them), retries.
Invariants: a refusal is a RefusedError with the errno of the model; with `base_index` it may be PRECONDITION_FAILED,
whose `version` is the present index (WS-28); with guards a FencedError.
Commands given one after the other to one lane are judged in that order, so a caller may pipeline them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hypercluster.client.answers import raise_unless_ok
from hypercluster.client.chunking import Piece, is_inline, split
from hypercluster.client.content import ChunkDoor
from hypercluster.errors import HyperClusterError, Outcome, OutcomeUnknownError
from hypercluster.limits import WRITE_BYTES_MAX
from hypercluster.pb.v1 import command_pb2 as command_pb
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.pb.v1.coordination_command_pb2 import Guard

if TYPE_CHECKING:
    from hypercluster.client.client import Client

ROOT = bytes(16)
OPS_LANE = 0


@dataclass(frozen=True, slots=True)
class FileResult:
    """The acknowledgement of one accepted file command (WS-36); of several, the last one's, so that its log_index is
    a base index for what follows."""

    log_index: int
    raft_index: int
    committed_at_ns: int
    root: bytes
    inode_id: bytes
    inode_no: int
    applied_offset: int = 0
    existed: bool = False
    # Another client's operation that this one may have undone (WS-46): its log_index, 0 for none, and what they met in.
    hazard_index: int = 0
    hazard_kind: int = 0


class FileOps:
    def __init__(self, client: Client, workspace_id: bytes, lane: int = OPS_LANE) -> None:
        self._client = client
        self.workspace_id = workspace_id
        self.chunks = ChunkDoor(client, workspace_id)
        self._lane = lane
        self._guards: Callable[[], Sequence[Guard]] = tuple
        self._reserved: Callable[[], Awaitable[Sequence[int]]] | None = None

    def guarded(self, guards: Callable[[], Sequence[Guard]]) -> FileOps:
        """The same with guards on every command, asked for when it is sent (D-10)."""
        made = self._copy()
        made._guards = guards
        return made

    def reserved(self, reservations: Callable[[], Awaitable[Sequence[int]]]) -> FileOps:
        """The same with reservations on every command; they are asked for before each, and before an upload (WS-45)."""
        made = self._copy()
        made._reserved = reservations
        return made

    def _copy(self) -> FileOps:
        made = FileOps(self._client, self.workspace_id, self._lane)
        made.chunks, made._guards, made._reserved = self.chunks, self._guards, self._reserved
        return made

    async def run(
        self,
        file: file_pb.FileCommand,
        what: str,
        *,
        base_index: int | None = None,
        pieces: Sequence[Piece] = (),
        lane: int | None = None,
    ) -> FileResult:
        if base_index is not None:
            file.base_index = base_index
        if self._reserved is not None:
            file.reservation_ids.extend(await self._reserved())
        file.guards.extend(self._guards())
        command = command_pb.Command(file=file).SerializeToString()
        port = self._client.lane(self._lane if lane is None else lane)
        content: dict[bytes, bytes] = {piece.chunk_hash: piece.content for piece in pieces}
        settled = await port.submit(command, self.workspace_id, chunks=content, upload=self.chunks.put_again)
        raise_unless_ok(settled, what)
        ack = settled.file
        if ack is None:
            raise OutcomeUnknownError(f"{what}: the acknowledgement has no details")
        return FileResult(
            ack.log_index,
            settled.raft_index,
            ack.committed_at_ns,
            ack.root,
            ack.inode_id,
            ack.inode_no,
            ack.applied_offset,
            ack.existed,
            ack.hazard.conflicting_log_index,
            ack.hazard.kind,
        )

    # --- names --------------------------------------------------------------------------------------

    async def create(
        self, directory: bytes, name: bytes, mode: int = 0o644, *, exclusive: bool = False, lane: int | None = None
    ) -> FileResult:
        create = file_pb.Create(place=place(directory, name), mode=mode, exclusive=exclusive)
        return await self.run(file_pb.FileCommand(create=create), f"create {shown(name)}", lane=lane)

    async def mkdir(self, directory: bytes, name: bytes, mode: int = 0o755, *, lane: int | None = None) -> FileResult:
        mkdir = file_pb.Mkdir(place=place(directory, name), mode=mode)
        return await self.run(file_pb.FileCommand(mkdir=mkdir), f"mkdir {shown(name)}", lane=lane)

    async def symlink(self, directory: bytes, name: bytes, target: bytes, *, lane: int | None = None) -> FileResult:
        symlink = file_pb.Symlink(place=place(directory, name), target=target)
        return await self.run(file_pb.FileCommand(symlink=symlink), f"symlink {shown(name)}", lane=lane)

    async def link(self, inode_id: bytes, directory: bytes, name: bytes, *, lane: int | None = None) -> FileResult:
        link = file_pb.Link(inode_id=inode_id, place=place(directory, name))
        return await self.run(file_pb.FileCommand(link=link), f"link {shown(name)}", lane=lane)

    async def unlink(self, directory: bytes, name: bytes, *, base_index: int | None = None) -> FileResult:
        unlink = file_pb.Unlink(place=place(directory, name))
        return await self.run(file_pb.FileCommand(unlink=unlink), f"unlink {shown(name)}", base_index=base_index)

    async def rmdir(self, directory: bytes, name: bytes, *, base_index: int | None = None) -> FileResult:
        rmdir = file_pb.Rmdir(place=place(directory, name))
        return await self.run(file_pb.FileCommand(rmdir=rmdir), f"rmdir {shown(name)}", base_index=base_index)

    async def rename(
        self,
        source: tuple[bytes, bytes],
        target: tuple[bytes, bytes],
        *,
        no_replace: bool = False,
        base_index: int | None = None,
    ) -> FileResult:
        """`source` and `target` are (directory, name)."""
        rename = file_pb.Rename(source=place(*source), target=place(*target), no_replace=no_replace)
        what = f"rename {shown(source[1])} to {shown(target[1])}"
        return await self.run(file_pb.FileCommand(rename=rename), what, base_index=base_index)

    # --- content ------------------------------------------------------------------------------------

    async def write(
        self,
        inode_id: bytes,
        content: bytes,
        offset: int = 0,
        *,
        base_index: int | None = None,
        lane: int | None = None,
    ) -> FileResult:
        """pwrite. Content beyond 1 MiB takes several commands, which are not one step for readers; `base_index`
        guards the first of them, and each is the base of the next, so that nothing of others comes in between."""
        return await self._write(inode_id, content, offset, append=False, base_index=base_index, lane=lane)

    async def append(self, inode_id: bytes, content: bytes, *, base_index: int | None = None) -> FileResult:
        """The offset is chosen when it is judged (WS-22): `applied_offset` of the first command. Content beyond
        1 MiB takes several appends, and without `base_index` others' appends may come in between."""
        return await self._write(inode_id, content, 0, append=True, base_index=base_index)

    async def _write(
        self,
        inode_id: bytes,
        content: bytes,
        offset: int,
        *,
        append: bool,
        base_index: int | None,
        lane: int | None = None,
    ) -> FileResult:
        block = content[:WRITE_BYTES_MAX]
        command, pieces = await self.prepare_write(inode_id, block, offset, append=append)
        first = met = done = await self.run(command, "write", base_index=base_index, pieces=pieces, lane=lane)
        with after_a_part("a part of the content was written"):
            for start in range(WRITE_BYTES_MAX, len(content), WRITE_BYTES_MAX):
                block = content[start : start + WRITE_BYTES_MAX]
                base_index = None if base_index is None else done.log_index
                command, pieces = await self.prepare_write(inode_id, block, offset + start, append=append)
                done = await self.run(command, "write", base_index=base_index, pieces=pieces, lane=lane)
                met = met if met.hazard_index else done
        return replace(
            done,
            applied_offset=first.applied_offset,
            hazard_index=met.hazard_index,
            hazard_kind=met.hazard_kind,
        )

    async def prepare_write(
        self, inode_id: bytes, content: bytes, offset: int, *, append: bool = False
    ) -> tuple[file_pb.FileCommand, list[Piece]]:
        """The command for at most WRITE_BYTES_MAX of content, once the cluster has its chunks."""
        if is_inline(content):
            write = file_pb.Write(inode_id=inode_id, offset=offset, append=append, inline=content)
            return file_pb.FileCommand(write=write), []
        pieces = list(split(content, offset))
        if self._reserved is not None:
            await self._reserved()
        await self.chunks.ensure({piece.chunk_hash: piece.content for piece in pieces})
        write = file_pb.Write(
            inode_id=inode_id,
            offset=offset,
            append=append,
            pieces=[file_pb.ChunkPiece(hash=p.chunk_hash, chunk_offset=0, length=len(p.content)) for p in pieces],
        )
        return file_pb.FileCommand(write=write), pieces

    async def truncate(
        self, inode_id: bytes, size: int, *, base_index: int | None = None, lane: int | None = None
    ) -> FileResult:
        truncate = file_pb.Truncate(inode_id=inode_id, size=size)
        return await self.run(file_pb.FileCommand(truncate=truncate), "truncate", base_index=base_index, lane=lane)

    async def sync(self, inode_id: bytes, *, data_only: bool = False) -> FileResult:
        """Durable once it returns (WS-26), as every acknowledged command is; it also flushes the open batch."""
        sync = file_pb.Sync(inode_id=inode_id, data_only=data_only)
        return await self.run(file_pb.FileCommand(sync=sync), "fsync")

    # --- metadata -----------------------------------------------------------------------------------

    async def chmod(
        self, inode_id: bytes, mode: int, *, base_index: int | None = None, lane: int | None = None
    ) -> FileResult:
        chmod = file_pb.Chmod(inode_id=inode_id, mode=mode)
        return await self.run(file_pb.FileCommand(chmod=chmod), "chmod", base_index=base_index, lane=lane)

    async def utimens(self, inode_id: bytes, mtime_ns: int | None = None, *, lane: int | None = None) -> FileResult:
        """`mtime_ns` None means the command's own committed_at."""
        utimens = file_pb.Utimens(inode_id=inode_id, mtime_ns=mtime_ns)
        return await self.run(file_pb.FileCommand(utimens=utimens), "utimens", lane=lane)

    async def set_xattr(
        self,
        inode_id: bytes,
        name: bytes,
        value: bytes,
        *,
        flag: file_pb.XattrFlag = file_pb.XATTR_FLAG_ANY,
        lane: int | None = None,
    ) -> FileResult:
        set_xattr = file_pb.SetXattr(inode_id=inode_id, name=name, value=value, flag=flag)
        return await self.run(file_pb.FileCommand(set_xattr=set_xattr), f"setxattr {shown(name)}", lane=lane)

    async def remove_xattr(self, inode_id: bytes, name: bytes) -> FileResult:
        remove = file_pb.RemoveXattr(inode_id=inode_id, name=name)
        return await self.run(file_pb.FileCommand(remove_xattr=remove), f"removexattr {shown(name)}")


@contextmanager
def after_a_part(done: str) -> Iterator[None]:
    """What ends an operation of several commands, one of which was accepted, is not "definitely not" (D-8): the error
    keeps its class, and says what was done."""
    try:
        yield
    except HyperClusterError as error:
        if error.outcome is Outcome.DEFINITELY_NOT:
            error.outcome = Outcome.UNKNOWN
            error.args = (f"{error} ({done})",)
        raise


async def all_or_first_error(waits: Iterable[Awaitable[FileResult]]) -> list[FileResult]:
    """Waits for every one, then raises the first error: nothing is left running behind the caller."""
    results: list[FileResult] = []
    first: BaseException | None = None
    for done in await asyncio.gather(*waits, return_exceptions=True):
        if isinstance(done, BaseException):
            first = first or done
        else:
            results.append(done)
    if first is not None:
        raise first
    return results


def place(directory: bytes, name: bytes) -> file_pb.Place:
    return file_pb.Place(directory=directory, name=name)


def shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
