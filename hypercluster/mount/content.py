"""Open files and directories: create, open, read, write, fsync, close, readdir (WS-20, WS-22, WS-26, WS-44).

Owns: what open flags mean here, and the life of a handle: held in the tree from before it is opened until it is closed.
Never: offsets of appends; they are chosen in apply, and the kernel's are not looked at (WS-22).
Invariants: operations on a handle act on its inode, whatever has become of the names (WS-21). A handle that can write
goes around the kernel's page cache, one that only reads goes through it: so a mapping works (git maps its packs and its
index), and nothing dirty is ever in the kernel. Opening for writing asks for a leader first (WS-3).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from hypercluster.client.live.ports import KIND_DIRECTORY, Node, Process
from hypercluster.mount.desk import Desk
from hypercluster.mount.handles import Handle, Rows
from hypercluster.mount.names import PERMISSION_BITS, place
from hypercluster.mount.request import Request, fitting_rows
from hypercluster.mount.turns import Turns
from hypercluster.pb.v1 import workspace_command_pb2 as pb

READS_HERE_MAX: Final = 16  # half of the session's threads
READS_ASIDE_MAX: Final = 16


def wants_writing(flags: int) -> bool:
    return flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)


class ContentOperations:
    """`closed` is told of each handle before it goes; `let_go` of each close() of a descriptor, with its lock owner."""

    def __init__(
        self, desk: Desk, closed: Callable[[Handle], None], let_go: Callable[[Request, Handle, int], None]
    ) -> None:
        self._desk = desk
        self._closed = closed
        self._let_go = let_go
        self._turns = Turns(READS_HERE_MAX, READS_ASIDE_MAX, "fuse-read")
        self.beside: Callable[[bytes, Rows], Rows] = lambda _directory, rows: rows  # what is local there (WS-56)

    # --- opening ------------------------------------------------------------------------------------

    def create(self, request: Request, parent: int, name: bytes, mode: int, flags: int) -> None:
        """O_CREAT where the kernel saw nothing. With O_EXCL it is one command, decided in apply (WS-22)."""
        desk = self._desk
        desk.admit(request)
        at = place(desk.inode(parent), name)
        create = pb.Create(place=at, mode=mode & PERMISSION_BITS, exclusive=bool(flags & os.O_EXCL))
        process = desk.process_of(request)

        async def work() -> None:
            try:
                ack = await desk.mutate(request, process, pb.FileCommand(create=create))
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                # Another host has put a symlink there. ESTALE makes the kernel walk the path anew, and follow it.
                raise OSError(errno.ESTALE, "a symlink stands there now") from error
            node = desk.hold(ack.inode_id)
            try:
                if ack.existed and flags & os.O_TRUNC:
                    node = await self._truncate(request, process, ack.inode_id)
                self._answer_create(request, node, cached=not wants_writing(flags))
            except BaseException:
                desk.live.drop(ack.inode_id)
                raise

        desk.later(request, work)

    def _answer_create(self, request: Request, node: Node, *, cached: bool) -> None:
        desk = self._desk
        handle = desk.handles.open(node.inode_id, cached=cached)
        desk.nodes.looked_up(node)
        if not request.created(node, handle.number, cached=cached):
            desk.nodes.forget(node.ino, 1)
            self._close(handle.number)

    def open(self, request: Request, node: int, flags: int) -> None:
        desk = self._desk
        desk.admit(request)
        inode_id = desk.inode(node)
        if not wants_writing(flags):
            desk.hold(inode_id)
            self._answer_open(request, inode_id, cached=True)
            return
        process = desk.process_of(request)

        async def work() -> None:
            await desk.interruptible(request, desk.live.check_writable())
            desk.hold(inode_id)
            try:
                if flags & os.O_TRUNC:
                    await self._truncate(request, process, inode_id)
                self._answer_open(request, inode_id, cached=False)
            except BaseException:
                desk.live.drop(inode_id)
                raise

        desk.later(request, work)

    def opendir(self, request: Request, node: int) -> None:
        desk = self._desk
        desk.admit(request)
        inode_id = desk.inode(node)
        if desk.hold(inode_id).kind != KIND_DIRECTORY:
            desk.live.drop(inode_id)
            raise OSError(errno.ENOTDIR, "not a directory")
        self._answer_open(request, inode_id, cached=False)

    def _answer_open(self, request: Request, inode_id: bytes, *, cached: bool) -> None:
        handle = self._desk.handles.open(inode_id, cached=cached)
        if not request.opened(handle.number, cached=cached):
            self._close(handle.number)

    async def _truncate(self, request: Request, process: Process, inode_id: bytes) -> Node:
        command = pb.FileCommand(truncate=pb.Truncate(inode_id=inode_id, size=0))
        await self._desk.mutate(request, process, command)
        return self._desk.node(inode_id)

    # --- content ------------------------------------------------------------------------------------

    def read(self, request: Request, handle: int, offset: int, size: int) -> None:
        """In the thread that read the request, unless many of them do so: bytes that are not here are waited for, and
        some threads must be left to answer everything else (WS-65)."""
        inode_id = self._desk.handles.get(handle).inode_id
        self._turns.take(request, lambda: request.content(self._desk.view.read(inode_id, offset, size)))

    def end(self) -> None:
        """No further reads are taken."""
        self._turns.end()

    def write(self, request: Request, handle: int, offset: int, content: bytes, flags: int) -> None:
        """At most 1 MiB, which is one command. Returns when it is committed and applied (WS-2)."""
        desk = self._desk
        opened = desk.handles.get(handle)
        append = bool(flags & os.O_APPEND)
        write = pb.Write(inode_id=opened.inode_id, offset=0 if append else offset, append=append)
        process = desk.process_of(request)

        async def work() -> None:
            await desk.mutate(request, process, pb.FileCommand(write=write), content=content, handle=opened)
            request.written(len(content))

        desk.later(request, work)

    def fsync(self, request: Request, handle: int, data_only: bool) -> None:
        """Files and directories (WS-26)."""
        desk = self._desk
        opened = desk.handles.get(handle)
        command = pb.FileCommand(sync=pb.Sync(inode_id=opened.inode_id, data_only=data_only))
        process = desk.process_of(request)

        async def work() -> None:
            await desk.mutate(request, process, command)
            request.done()

        desk.later(request, work)

    # --- closing ------------------------------------------------------------------------------------

    def flush(self, request: Request, handle: int, lock_owner: int) -> None:
        """Each close() of a descriptor. Nothing waits to be written; fcntl locks of this process end (POSIX)."""
        self._let_go(request, self._desk.handles.get(handle), lock_owner)

    def release(self, request: Request, handle: int) -> None:
        """The last close() of an open file description."""
        self._close(handle)
        request.done()

    def _close(self, number: int) -> None:
        handle = self._desk.handles.close(number)
        self._closed(handle)
        self._desk.live.drop(handle.inode_id)

    # --- directories --------------------------------------------------------------------------------

    def readdir(self, request: Request, handle: int, offset: int, room: int) -> None:
        """'.' and '..', then every entry bytewise sorted (WS-16), as they were when the reading began."""
        opened = self._desk.handles.get(handle)
        if offset == 0 or opened.rows is None:
            opened.rows = self._rows(opened.inode_id)
        request.entries(fitting_rows(opened.rows, offset, room), offset, room)

    def _rows(self, inode_id: bytes) -> Rows:
        view = self._desk.view
        here = view.node(inode_id)
        try:
            above = view.node(view.parent_of(inode_id))
        except OSError:  # it has no name any more
            above = here
        return self.beside(inode_id, [(b".", here), (b"..", above), *view.list(inode_id)])
