"""Operations on metadata: getattr, setattr, readlink, extended attributes, statfs (WS-15, WS-20, WS-24).

Owns: from the kernel's combined setattr to single commands, and which extended attributes a mount has.
Never: atime; it is not kept (WS-15).
Invariants: the root directory's attributes, statfs and the attributes of virtual.py are answered to every user and
without the cluster, for the watchdog asks for them; everything else is the workspace's user's alone (WS-6).
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from hypercluster.client.live.ports import KIND_SYMLINK, ROOT_ID
from hypercluster.limits import NAME_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX
from hypercluster.mount import libfuse, virtual
from hypercluster.mount.desk import Desk
from hypercluster.mount.names import PERMISSION_BITS
from hypercluster.mount.request import Request
from hypercluster.pb.v1 import workspace_command_pb2 as pb

USER: Final = b"user."
NS_PER_S: Final = 1_000_000_000
BARRIER_DIGITS: Final = 20  # of a u64


class AttributeOperations:
    def __init__(self, desk: Desk, attributes: virtual.VirtualAttributes) -> None:
        self._desk = desk
        self._virtual = attributes
        self.beside_barrier: Callable[[], Awaitable[None]] | None = None

    def getattr(self, request: Request, node: int) -> None:
        if node != libfuse.ROOT_NODE:
            self._desk.admit(request)
        request.attributes(self._desk.node(self._desk.inode(node)), lasting=True)

    def readlink(self, request: Request, node: int) -> None:
        self._desk.admit(request)
        found = self._desk.node(self._desk.inode(node))
        if found.kind != KIND_SYMLINK:
            raise OSError(errno.EINVAL, "not a symlink")
        request.target(found.symlink_target)

    def statfs(self, request: Request) -> None:
        bytes_used, inodes = self._desk.view.totals()
        request.space(bytes_used, inodes, NAME_BYTES_MAX)

    def setattr(self, request: Request, node: int, wanted: Any, which: int, handle: int | None) -> None:
        """truncate, chown, chmod and utimens may come in one call; each is a command of its own, in that order."""
        desk = self._desk
        desk.admit(request)
        inode_id = desk.inode(node)
        opened = desk.handles.get(handle) if handle is not None else None
        commands = self._commands(inode_id, wanted, which)
        if not commands:
            request.attributes(desk.node(inode_id), lasting=False)
            return
        process = desk.process_of(request)

        async def work() -> None:
            try:
                for command in commands:
                    guarding = opened if command.WhichOneof("op") == "truncate" else None
                    await desk.mutate(request, process, command, handle=guarding)
            except FileNotFoundError as error:
                raise OSError(errno.ESTALE, "the file is gone") from error
            request.attributes(desk.node(inode_id), lasting=False)

        desk.later(request, work)

    def _commands(self, inode_id: bytes, wanted: Any, which: int) -> list[pb.FileCommand]:
        found: list[pb.FileCommand] = []
        if which & libfuse.SET_SIZE:
            found.append(pb.FileCommand(truncate=pb.Truncate(inode_id=inode_id, size=wanted.st_size)))
        if which & (libfuse.SET_UID | libfuse.SET_GID):
            uid = wanted.st_uid if which & libfuse.SET_UID else self._desk.view.uid
            gid = wanted.st_gid if which & libfuse.SET_GID else self._desk.view.gid
            found.append(pb.FileCommand(chown=pb.Chown(inode_id=inode_id, uid=uid, gid=gid)))
        if which & libfuse.SET_MODE:
            mode = wanted.st_mode & PERMISSION_BITS
            found.append(pb.FileCommand(chmod=pb.Chmod(inode_id=inode_id, mode=mode)))
        if which & (libfuse.SET_MTIME | libfuse.SET_MTIME_NOW):
            utimens = pb.Utimens(inode_id=inode_id)
            if not which & libfuse.SET_MTIME_NOW:
                utimens.mtime_ns = wanted.st_mtimespec.tv_sec * NS_PER_S + wanted.st_mtimespec.tv_nsec
            found.append(pb.FileCommand(utimens=utimens))
        return found

    # --- extended attributes ------------------------------------------------------------------------

    def getxattr(self, request: Request, node: int, name: bytes, room: int) -> None:
        desk = self._desk
        if node == libfuse.ROOT_NODE and name == virtual.CONTROL:
            request.attribute_value(self._virtual.control(), room)
            return
        if node == libfuse.ROOT_NODE and name == virtual.BARRIER:
            self._barrier(request, room)
            return
        if not name.startswith(USER):
            raise OSError(errno.EOPNOTSUPP if name.startswith(b"system.") else errno.ENODATA, "only user attributes")
        inode_id = desk.inode(node)
        if name.startswith(virtual.PREFIX):
            if inode_id != ROOT_ID:
                desk.admit(request)
            request.attribute_value(self._virtual.value(desk.node(inode_id), name), room)
            return
        desk.admit(request)
        request.attribute_value(desk.view.xattr(inode_id, name), room)

    def _barrier(self, request: Request, room: int) -> None:
        """A strict read, for scripts: answers the log_index that was confirmed and is applied here."""
        desk = self._desk
        desk.admit(request)
        if room == 0:  # how much room is needed; the value will not be longer
            request.attribute_value(b"0" * BARRIER_DIGITS, room)
            return

        async def work() -> None:
            log_index = await desk.interruptible(request, self._confirmed())
            request.attribute_value(str(log_index).encode(), room)

        desk.later(request, work)

    async def _confirmed(self) -> int:
        if self.beside_barrier is None:
            return await self._desk.live.barrier()
        log_index, _ = await asyncio.gather(self._desk.live.barrier(), self.beside_barrier())
        return log_index

    def listxattr(self, request: Request, node: int, room: int) -> None:
        desk = self._desk
        desk.admit(request)
        inode_id = desk.inode(node)
        names: list[bytes] = []
        if desk.node(inode_id).kind != KIND_SYMLINK:
            names = sorted({*desk.view.xattrs(inode_id), *self._virtual.names(inode_id)})
        request.attribute_value(b"".join(name + b"\0" for name in names), room)

    def setxattr(self, request: Request, node: int, name: bytes, value: bytes, flags: int) -> None:
        inode_id = self._settable(request, node, name)
        if len(value) > XATTR_VALUE_BYTES_MAX:
            raise OSError(errno.E2BIG, f"a value is at most {XATTR_VALUE_BYTES_MAX} bytes")
        flag = pb.XATTR_FLAG_ANY
        if flags & os.XATTR_CREATE:
            flag = pb.XATTR_FLAG_CREATE
        elif flags & os.XATTR_REPLACE:
            flag = pb.XATTR_FLAG_REPLACE
        command = pb.FileCommand(set_xattr=pb.SetXattr(inode_id=inode_id, name=name, value=value, flag=flag))
        self._change(request, command)

    def removexattr(self, request: Request, node: int, name: bytes) -> None:
        inode_id = self._settable(request, node, name)
        self._change(request, pb.FileCommand(remove_xattr=pb.RemoveXattr(inode_id=inode_id, name=name)))

    def _settable(self, request: Request, node: int, name: bytes) -> bytes:
        self._desk.admit(request)
        if name.startswith(virtual.PREFIX):
            raise OSError(errno.EPERM, "the mount's own attributes can not be set")
        if not name.startswith(USER):
            raise OSError(errno.EOPNOTSUPP, "only user attributes are replicated")
        if len(name) > XATTR_NAME_BYTES_MAX:
            raise OSError(errno.ERANGE, f"a name is at most {XATTR_NAME_BYTES_MAX} bytes")
        return self._desk.inode(node)

    def _change(self, request: Request, command: pb.FileCommand) -> None:
        desk = self._desk
        process = desk.process_of(request)

        async def work() -> None:
            await desk.mutate(request, process, command)
            request.done()

        desk.later(request, work)
