"""A workspace by paths: what a program does to a tree it has not mounted (WS-60).

Owns: paths to inode ids, reads (stat, readdir, walk, pread, extents), whole-file get and put, and the tail of the log.
Never: caches a path; each operation resolves its own, with a linearizable read unless told otherwise.
Invariants: paths are bytes relative to the root, '/'-separated; str is taken as UTF-8 with surrogateescape, as the
os module does. Symlinks are not followed: an operation on one acts on the link itself.
A path that is renamed by others between the read that resolves it and the command is acted on by inode id.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypercluster.client.coordination import Coordination
from hypercluster.client.file_ops import ROOT, FileOps, FileResult, after_a_part, shown
from hypercluster.client.locks import Lock
from hypercluster.client.log_tail import read_log
from hypercluster.client.reservations import Reservation
from hypercluster.client.stubs import workspace_service
from hypercluster.errors import RefusedError, check
from hypercluster.limits import GUARDS_MAX, NAME_BYTES_MAX
from hypercluster.pb.v1 import read_pb2, workspace_pb2
from hypercluster.pb.v1.workspace_command_pb2 import LogRecord
from hypercluster.values import ReadLevel

if TYPE_CHECKING:
    from hypercluster.client.client import Client

Path = str | bytes
READDIR_PAGE = 1_000
EXTENTS_PAGE = 4_096
READ_BYTES_MAX = 64 << 20  # of one pread


@dataclass(frozen=True, slots=True)
class Entry:
    """A path of a walk and what is there."""

    path: bytes
    inode: workspace_pb2.Inode


@dataclass(frozen=True, slots=True)
class Seen:
    """What was at a path, None for nothing, and as of which index the node that answered said so."""

    inode: workspace_pb2.Inode | None
    state: read_pb2.ReadState


def to_bytes(path: Path) -> bytes:
    """Without leading, trailing and double slashes; '' is the root."""
    raw = os.fsencode(path)
    return b"/".join(part for part in raw.split(b"/") if part)


def is_directory(inode: workspace_pb2.Inode) -> bool:
    return inode.kind == workspace_pb2.FILE_KIND_DIRECTORY


class Workspace(Coordination):
    """Made by `Client.open_workspace` or `Client.create_workspace`. `ops` is the face by inode id."""

    def __init__(self, client: Client, workspace_id: bytes, name: str) -> None:
        self.client = client
        self.workspace_id = workspace_id
        self.name = name
        self.ops = FileOps(client, workspace_id)

    def guarded_by(self, *locks: Lock) -> Workspace:
        """The same workspace, every change through which is refused (FencedError) once one of the locks is lost."""
        check(0 < len(locks) <= GUARDS_MAX, f"a command carries 1 to {GUARDS_MAX} guards")
        made = Workspace(self.client, self.workspace_id, self.name)
        made.ops = self.ops.guarded(lambda: [lock.guard() for lock in locks])
        return made

    def reserved_by(self, *reservations: Reservation) -> Workspace:
        """The same workspace, every change through which names these reservations (WS-45)."""
        check(0 < len(reservations) <= GUARDS_MAX, f"a command names 1 to {GUARDS_MAX} reservations")
        made = Workspace(self.client, self.workspace_id, self.name)

        async def current() -> list[int]:
            return [found for reservation in reservations for found in await reservation.current()]

        made.ops = self.ops.reserved(current)
        return made

    # --- reads --------------------------------------------------------------------------------------

    async def barrier(self) -> workspace_pb2.BarrierResponse:
        """Log index and root as of a read confirmed after this call (WS-2)."""
        request = workspace_pb2.BarrierRequest(
            read=self.client.read_options(ReadLevel.LINEARIZABLE), workspace_id=self.workspace_id
        )
        answer: workspace_pb2.BarrierResponse = await self.client.nodes.read(
            lambda channel, timeout: workspace_service(channel).Barrier(request, timeout=timeout), f"read {self.name}"
        )
        return answer

    async def stat(
        self, path: Path, *, with_xattrs: bool = False, level: ReadLevel = ReadLevel.LINEARIZABLE
    ) -> workspace_pb2.Inode:
        """Raises RefusedError with errno ENOENT or ENOTDIR."""
        request = workspace_pb2.StatRequest(
            read=self.client.read_options(level, self.client.known_index()),
            workspace_id=self.workspace_id,
            with_xattrs=with_xattrs,
        )
        clean = to_bytes(path)
        if clean:
            request.path = clean
        else:
            request.inode_id = ROOT
        return await self._stat(request, shown(clean) or "/", level)

    async def look(self, path: Path, *, level: ReadLevel = ReadLevel.LINEARIZABLE) -> Seen:
        """What is at a path, if anything is, and how fresh the answer is. Raises RefusedError with errno ENOTDIR."""
        clean = to_bytes(path)
        request = workspace_pb2.StatRequest(
            read=self.client.read_options(level, self.client.known_index()), workspace_id=self.workspace_id
        )
        if clean:
            request.path = clean
        else:
            request.inode_id = ROOT
        answer = await self._stat_answer(request, shown(clean) or "/", level)
        if answer.errno == errno.ENOENT:
            return Seen(None, answer.state)
        if answer.errno:
            raise file_error(answer.errno, f"stat {shown(clean)}")
        return Seen(answer.inode, answer.state)

    async def stat_inode(
        self, inode_id: bytes, *, with_xattrs: bool = False, level: ReadLevel = ReadLevel.LINEARIZABLE
    ) -> workspace_pb2.Inode:
        request = workspace_pb2.StatRequest(
            read=self.client.read_options(level, self.client.known_index()),
            workspace_id=self.workspace_id,
            inode_id=inode_id,
            with_xattrs=with_xattrs,
        )
        return await self._stat(request, inode_id.hex(), level)

    async def _stat(self, request: workspace_pb2.StatRequest, shown_path: str, level: ReadLevel) -> workspace_pb2.Inode:
        answer = await self._stat_answer(request, shown_path, level)
        if answer.errno:
            raise file_error(answer.errno, f"stat {shown_path}")
        return answer.inode

    async def _stat_answer(
        self, request: workspace_pb2.StatRequest, shown_path: str, level: ReadLevel
    ) -> workspace_pb2.StatResponse:
        answer: workspace_pb2.StatResponse = await self.client.nodes.read(
            lambda channel, timeout: workspace_service(channel).Stat(request, timeout=timeout),
            f"stat {shown_path}",
            any_node=level is ReadLevel.BOUNDED_STALE,
        )
        return answer

    async def readdir(
        self, path: Path = b"", *, level: ReadLevel = ReadLevel.LINEARIZABLE
    ) -> AsyncIterator[workspace_pb2.DirectoryEntry]:
        """Bytewise sorted (WS-16). Each page is a read of its own."""
        inode = await self.stat(path, level=level)
        if not is_directory(inode):
            raise file_error(errno.ENOTDIR, f"list {shown(to_bytes(path))}")
        async for entry in self.readdir_inode(inode.inode_id, level=level):
            yield entry

    async def readdir_inode(
        self, directory: bytes, *, level: ReadLevel = ReadLevel.LINEARIZABLE
    ) -> AsyncIterator[workspace_pb2.DirectoryEntry]:
        after = b""
        while True:
            request = workspace_pb2.ReadDirRequest(
                read=self.client.read_options(level, self.client.known_index()),
                workspace_id=self.workspace_id,
                directory=directory,
                after=after,
                limit=READDIR_PAGE,
            )
            answer = await self._readdir_page(request, level)
            for entry in answer.entries:
                yield entry
            if not answer.more or not answer.entries:
                return
            after = answer.entries[-1].name

    async def _readdir_page(
        self, request: workspace_pb2.ReadDirRequest, level: ReadLevel
    ) -> workspace_pb2.ReadDirResponse:
        answer: workspace_pb2.ReadDirResponse = await self.client.nodes.read(
            lambda channel, timeout: workspace_service(channel).ReadDir(request, timeout=timeout),
            "list a directory",
            any_node=level is ReadLevel.BOUNDED_STALE,
        )
        if answer.errno:
            raise file_error(answer.errno, "list a directory")
        return answer

    async def walk(self, path: Path = b"", *, level: ReadLevel = ReadLevel.LINEARIZABLE) -> AsyncIterator[Entry]:
        """Everything below `path`, a directory before what is in it, names in byte order. Not one moment: for a
        consistent tree see snapshot.py."""
        top = to_bytes(path)
        inode = await self.stat(top, level=level)
        pending: list[tuple[bytes, bytes]] = [(top, inode.inode_id)]
        while pending:
            base, directory = pending.pop()
            below: list[tuple[bytes, bytes]] = []
            async for entry in self.readdir_inode(directory, level=level):
                entry_path = base + b"/" + entry.name if base else entry.name
                yield Entry(entry_path, entry.inode)
                if is_directory(entry.inode):
                    below.append((entry_path, entry.inode.inode_id))
            pending.extend(reversed(below))

    async def extents(
        self, inode_id: bytes, from_offset: int = 0, *, level: ReadLevel = ReadLevel.LINEARIZABLE
    ) -> AsyncIterator[workspace_pb2.ExtentsResponse]:
        """Pages of extents from the one that holds `from_offset`."""
        while True:
            request = workspace_pb2.ExtentsRequest(
                read=self.client.read_options(level, self.client.known_index()),
                workspace_id=self.workspace_id,
                inode_id=inode_id,
                from_offset=from_offset,
                limit=EXTENTS_PAGE,
            )
            answer = await self._extents_page(request, level)
            yield answer
            if not answer.more or not answer.extents:
                return
            from_offset = answer.extents[-1].offset + answer.extents[-1].length

    async def _extents_page(
        self, request: workspace_pb2.ExtentsRequest, level: ReadLevel
    ) -> workspace_pb2.ExtentsResponse:
        answer: workspace_pb2.ExtentsResponse = await self.client.nodes.read(
            lambda channel, timeout: workspace_service(channel).Extents(request, timeout=timeout),
            "read a file",
            any_node=level is ReadLevel.BOUNDED_STALE,
        )
        if answer.errno:
            raise file_error(answer.errno, "read a file")
        return answer

    async def pread(self, inode_id: bytes, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`, fewer at the end of the file; holes read as zero."""
        length = min(length, READ_BYTES_MAX)
        end = offset + length
        extents: list[workspace_pb2.Extent] = []
        size = 0
        async for page in self.extents(inode_id, offset):
            size = page.size
            extents += [e for e in page.extents if e.offset < end and e.offset + e.length > offset]
            if page.extents and page.extents[-1].offset >= end:
                break
        end = min(end, size)
        if end <= offset:
            return b""
        chunks = await self.ops.chunks.fetch(e.chunk_hash for e in extents)
        out = bytearray(end - offset)
        for extent in extents:
            start = max(offset, extent.offset)
            stop = min(end, extent.offset + extent.length)
            at = extent.chunk_offset + start - extent.offset
            out[start - offset : stop - offset] = chunks[extent.chunk_hash][at : at + stop - start]
        return bytes(out)

    async def get(self, path: Path) -> AsyncIterator[bytes]:
        """The content of a file, in blocks."""
        inode = await self.stat(path)
        if is_directory(inode):
            raise file_error(errno.EISDIR, f"read {shown(to_bytes(path))}")
        if inode.symlink_target:
            words = f"read {shown(to_bytes(path))}, a symlink to {shown(inode.symlink_target)}"
            raise file_error(errno.EINVAL, words)
        offset = 0
        while block := await self.pread(inode.inode_id, offset, 4 << 20):
            yield block
            offset += len(block)

    # --- changes ------------------------------------------------------------------------------------

    async def parent(self, path: Path) -> tuple[bytes, bytes]:
        """(inode id of the directory, name). Raises EINVAL for the root, ENOENT, ENOTDIR."""
        directory, _, name = to_bytes(path).rpartition(b"/")
        if not name:
            raise file_error(errno.EINVAL, "the root directory can not be made, moved or removed")
        if len(name) > NAME_BYTES_MAX:
            raise file_error(errno.ENAMETOOLONG, f"{shown(name[:16])}…: {len(name)} bytes, at most {NAME_BYTES_MAX}")
        return (await self.inode_id(directory)), name

    async def inode_id(self, path: Path) -> bytes:
        if not to_bytes(path):
            return ROOT
        return (await self.stat(path)).inode_id

    async def put(self, path: Path, content: bytes, *, mode: int = 0o644, base_index: int | None = None) -> FileResult:
        """Makes `path` a regular file with exactly this content. An existing file keeps its inode and mode. With
        `base_index` the file must be there, and its content must not have changed since (WS-28)."""
        if base_index is not None:
            seen = await self.stat(path)
            return await self._replace(seen.inode_id, content, base_index, shrinks=seen.size > len(content))
        directory, name = await self.parent(path)
        made = await self.ops.create(directory, name, mode)
        if made.existed:
            return await self._replace(made.inode_id, content, None, shrinks=True)
        with after_a_part(f"{shown(name)} was made"):
            return await self.ops.write(made.inode_id, content) if content else made

    async def _replace(self, inode_id: bytes, content: bytes, base_index: int | None, *, shrinks: bool) -> FileResult:
        """The new bytes first, then the end: a reader in between never meets an empty file."""
        if not content:
            return await self.ops.truncate(inode_id, 0, base_index=base_index)
        made = await self.ops.write(inode_id, content, base_index=base_index)
        if not shrinks:
            return made
        with after_a_part("the content was written, what was beyond it may still be there"):
            base_index = None if base_index is None else made.log_index
            return await self.ops.truncate(inode_id, len(content), base_index=base_index)

    async def write(self, path: Path, content: bytes, offset: int = 0, *, base_index: int | None = None) -> FileResult:
        return await self.ops.write(await self.inode_id(path), content, offset, base_index=base_index)

    async def append(self, path: Path, content: bytes, *, base_index: int | None = None) -> FileResult:
        return await self.ops.append(await self.inode_id(path), content, base_index=base_index)

    async def mkdir(self, path: Path, mode: int = 0o755) -> FileResult:
        return await self.ops.mkdir(*await self.parent(path), mode)

    async def symlink(self, target: Path, path: Path) -> FileResult:
        return await self.ops.symlink(*await self.parent(path), os.fsencode(target))

    async def link(self, existing: Path, path: Path) -> FileResult:
        return await self.ops.link(await self.inode_id(existing), *await self.parent(path))

    async def rename(
        self, source: Path, target: Path, *, no_replace: bool = False, base_index: int | None = None
    ) -> FileResult:
        return await self.ops.rename(
            await self.parent(source), await self.parent(target), no_replace=no_replace, base_index=base_index
        )

    async def unlink(self, path: Path, *, base_index: int | None = None) -> FileResult:
        return await self.ops.unlink(*await self.parent(path), base_index=base_index)

    async def rmdir(self, path: Path, *, base_index: int | None = None) -> FileResult:
        return await self.ops.rmdir(*await self.parent(path), base_index=base_index)

    async def chmod(self, path: Path, mode: int, *, base_index: int | None = None) -> FileResult:
        return await self.ops.chmod(await self.inode_id(path), mode, base_index=base_index)

    async def utimens(self, path: Path, mtime_ns: int | None = None) -> FileResult:
        return await self.ops.utimens(await self.inode_id(path), mtime_ns)

    async def truncate(self, path: Path, size: int, *, base_index: int | None = None) -> FileResult:
        return await self.ops.truncate(await self.inode_id(path), size, base_index=base_index)

    async def set_xattr(self, path: Path, name: Path, value: bytes) -> FileResult:
        return await self.ops.set_xattr(await self.inode_id(path), os.fsencode(name), value)

    async def remove_xattr(self, path: Path, name: Path) -> FileResult:
        return await self.ops.remove_xattr(await self.inode_id(path), os.fsencode(name))

    async def fsync(self, path: Path, *, data_only: bool = False) -> FileResult:
        return await self.ops.sync(await self.inode_id(path), data_only=data_only)

    # --- the log ------------------------------------------------------------------------------------

    def log(self, from_index: int = 1, *, follow: bool = False, address: str = "") -> AsyncGenerator[LogRecord]:
        """Accepted operations in order; without `follow` it ends at what was committed when it began. Raises
        HistoryGoneError when `from_index` is below what is kept, or beyond the end."""
        return read_log(self.client, self.workspace_id, self.name, from_index, follow=follow, address=address)


def file_error(number: int, what: str) -> RefusedError:
    code = errno.errorcode.get(number, f"errno {number}")
    return RefusedError("ERRNO", f"{what}: {os.strerror(number).lower()} ({code})", errno=number)
