"""Operations on names: lookup, mkdir, unlink, rmdir, symlink, link, rename (WS-20, WS-21, WS-23, WS-25).

Owns: from the kernel's (node, name) to a command on (directory inode, name).
Never: judges; whether a name is free is decided in apply.
Invariant: an operation names its directory by inode, so a directory that others rename meanwhile is still the one that
was meant.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import Final

from hypercluster.client.live.ports import KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK, Node
from hypercluster.limits import NAME_BYTES_MAX, SYMLINK_TARGET_BYTES_MAX
from hypercluster.mount.desk import Desk
from hypercluster.mount.request import Request
from hypercluster.mount.seldom import Seldom
from hypercluster.pb.v1 import workspace_command_pb2 as pb

RENAME_NOREPLACE: Final = 1
PERMISSION_BITS: Final = 0o7777
SYMLINK_MODE: Final = 0o777
WARN_EVERY_S: Final = 10.0

log = logging.getLogger(__name__)


def place(directory: bytes, name: bytes) -> pb.Place:
    """Raises OSError(ENAMETOOLONG)."""
    if len(name) > NAME_BYTES_MAX:
        raise OSError(errno.ENAMETOOLONG, f"a name is at most {NAME_BYTES_MAX} bytes")
    return pb.Place(directory=directory, name=name)


def node_of(desk: Desk, ack: pb.FileAck, kind: int, mode: int, target: bytes = b"") -> Node:
    """What an accepted operation made; as it was made, if others have removed it since."""
    try:
        return desk.view.node(ack.inode_id)
    except FileNotFoundError:
        view, stamp_ns = desk.view, ack.committed_at_ns
        return Node(
            inode_id=ack.inode_id,
            ino=ack.inode_no,
            kind=kind,
            mode=mode,
            uid=view.uid,
            gid=view.gid,
            size=len(target),
            nlink=0,
            mtime_ns=stamp_ns,
            ctime_ns=stamp_ns,
            symlink_target=target,
            content_index=ack.log_index,
            metadata_index=ack.log_index,
        )


class NameOperations:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._warnings = Seldom(WARN_EVERY_S)

    def lookup(self, request: Request, parent: int, name: bytes) -> None:
        desk = self._desk
        desk.admit(request)
        if len(name) > NAME_BYTES_MAX:
            raise OSError(errno.ENAMETOOLONG, f"a name is at most {NAME_BYTES_MAX} bytes")
        desk.enter(request, desk.view.lookup(desk.inode(parent), name))

    def forget(self, node: int, lookups: int) -> None:
        self._desk.nodes.forget(node, lookups)

    def mkdir(self, request: Request, parent: int, name: bytes, mode: int) -> None:
        bits = mode & PERMISSION_BITS
        command = pb.FileCommand(mkdir=pb.Mkdir(place=self._place(request, parent, name), mode=bits))
        self._make(request, command, KIND_DIRECTORY, bits)

    def symlink(self, request: Request, target: bytes, parent: int, name: bytes) -> None:
        if len(target) > SYMLINK_TARGET_BYTES_MAX:
            raise OSError(errno.ENAMETOOLONG, f"a symlink's target is at most {SYMLINK_TARGET_BYTES_MAX} bytes")
        if self._leads_out(target) and self._warnings.due("symlink"):
            log.warning(
                "the symlink %s of pid %d points to %s, which other hosts may not have (said once in %.0f s)",
                os.fsdecode(name), request.pid, os.fsdecode(target), WARN_EVERY_S,
            )  # fmt: skip
        command = pb.FileCommand(symlink=pb.Symlink(place=self._place(request, parent, name), target=target))
        self._make(request, command, KIND_SYMLINK, SYMLINK_MODE, target)

    def _leads_out(self, target: bytes) -> bool:
        """An absolute target outside of this mount (WS-25)."""
        here = os.fsencode(self._desk.directory)
        return target.startswith(b"/") and target != here and not target.startswith(here + b"/")

    def link(self, request: Request, node: int, new_parent: int, new_name: bytes) -> None:
        at = self._place(request, new_parent, new_name)
        command = pb.FileCommand(link=pb.Link(inode_id=self._desk.inode(node), place=at))
        self._make(request, command, KIND_FILE, 0)

    def unlink(self, request: Request, parent: int, name: bytes) -> None:
        self._change(request, pb.FileCommand(unlink=pb.Unlink(place=self._place(request, parent, name))))

    def rmdir(self, request: Request, parent: int, name: bytes) -> None:
        self._change(request, pb.FileCommand(rmdir=pb.Rmdir(place=self._place(request, parent, name))))

    def rename(self, request: Request, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        if flags & ~RENAME_NOREPLACE:
            raise OSError(errno.EOPNOTSUPP, "only RENAME_NOREPLACE is supported")  # WS-23
        rename = pb.Rename(
            source=self._place(request, parent, name),
            target=place(self._desk.inode(new_parent), new_name),
            no_replace=bool(flags & RENAME_NOREPLACE),
        )
        self._change(request, pb.FileCommand(rename=rename))

    def _place(self, request: Request, parent: int, name: bytes) -> pb.Place:
        self._desk.admit(request)
        return place(self._desk.inode(parent), name)

    def _make(self, request: Request, command: pb.FileCommand, kind: int, mode: int, target: bytes = b"") -> None:
        desk = self._desk
        process = desk.process_of(request)

        async def work() -> None:
            ack = await desk.mutate(request, process, command)
            desk.enter_new(request, node_of(desk, ack, kind, mode, target))

        desk.later(request, work)

    def _change(self, request: Request, command: pb.FileCommand) -> None:
        desk = self._desk
        process = desk.process_of(request)

        async def work() -> None:
            await desk.mutate(request, process, command)
            request.done()

        desk.later(request, work)
