"""File commands in one line each, for tests of the workspace."""

from __future__ import annotations

from typing import Any

from blake3 import blake3

from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.coordination_command_pb2 import CoordinationCommand, Reserve, Unreserve, WorkspaceSet
from hypercluster.pb.v1.workspace_command_pb2 import (
    XATTR_FLAG_ANY,
    Chmod,
    Chown,
    ChunkPiece,
    ChunkPut,
    Create,
    FileCommand,
    Link,
    Mkdir,
    Place,
    RemoveXattr,
    Rename,
    Rmdir,
    SetXattr,
    Symlink,
    Sync,
    Truncate,
    Unlink,
    Utimens,
    WorkspaceCreate,
    Write,
    XattrFlag,
)

ROOT = bytes(16)
Piece = tuple[bytes, int, int]  # hash, offset in the chunk, length


def _file(extra: dict[str, int], **op: Any) -> Command:
    return Command(file=FileCommand(**op, **extra))


def _coordination(**kind: Any) -> Command:
    return Command(coordination=CoordinationCommand(**kind))


def reserve(pattern: bytes, exclusive: bool = True, ttl_ms: int = 10_000) -> Command:
    return _coordination(reserve=Reserve(pattern=pattern, exclusive=exclusive, ttl_ms=ttl_ms))


def renew(reservation_id: int, ttl_ms: int = 10_000, pattern: bytes = b"", exclusive: bool = False) -> Command:
    op = Reserve(reservation_id=reservation_id, ttl_ms=ttl_ms, pattern=pattern, exclusive=exclusive)
    return _coordination(reserve=op)


def unreserve(reservation_id: int) -> Command:
    return _coordination(unreserve=Unreserve(reservation_id=reservation_id))


def workspace_set(**fields: Any) -> Command:
    return _coordination(workspace_set=WorkspaceSet(**fields))


def under(command: Command, *reservation_ids: int) -> Command:
    """The file command, naming reservations of its writer."""
    command.file.reservation_ids.extend(reservation_ids)
    return command


def place(directory: bytes, name: bytes) -> Place:
    return Place(directory=directory, name=name)


def workspace(name: str = "w", uid: int = 1000, gid: int = 1000, mode: int = 0o755) -> Command:
    return Command(workspace_create=WorkspaceCreate(name=name, uid=uid, gid=gid, mode=mode))


def chunk_put(content: bytes) -> Command:
    return Command(chunk_put=ChunkPut(hash=blake3(content).digest(), content=content))


def create(directory: bytes, name: bytes, mode: int = 0o644, exclusive: bool = True, **extra: int) -> Command:
    return _file(extra, create=Create(place=place(directory, name), mode=mode, exclusive=exclusive))


def mkdir(directory: bytes, name: bytes, mode: int = 0o755, **extra: int) -> Command:
    return _file(extra, mkdir=Mkdir(place=place(directory, name), mode=mode))


def symlink(directory: bytes, name: bytes, target: bytes, **extra: int) -> Command:
    return _file(extra, symlink=Symlink(place=place(directory, name), target=target))


def link(inode_id: bytes, directory: bytes, name: bytes, **extra: int) -> Command:
    return _file(extra, link=Link(inode_id=inode_id, place=place(directory, name)))


def unlink(directory: bytes, name: bytes, **extra: int) -> Command:
    return _file(extra, unlink=Unlink(place=place(directory, name)))


def rmdir(directory: bytes, name: bytes, **extra: int) -> Command:
    return _file(extra, rmdir=Rmdir(place=place(directory, name)))


def rename(
    directory: bytes, name: bytes, new_directory: bytes, new_name: bytes, no_replace: bool = False, **extra: int
) -> Command:
    source, target = place(directory, name), place(new_directory, new_name)
    return _file(extra, rename=Rename(source=source, target=target, no_replace=no_replace))


def write(inode_id: bytes, offset: int, inline: bytes, **extra: int) -> Command:
    return _file(extra, write=Write(inode_id=inode_id, offset=offset, inline=inline))


def append(inode_id: bytes, inline: bytes, **extra: int) -> Command:
    return _file(extra, write=Write(inode_id=inode_id, append=True, inline=inline))


def write_pieces(inode_id: bytes, offset: int, pieces: list[Piece], at_end: bool = False, **extra: int) -> Command:
    parts = [ChunkPiece(hash=found, chunk_offset=start, length=length) for found, start, length in pieces]
    return _file(extra, write=Write(inode_id=inode_id, offset=offset, append=at_end, pieces=parts))


def truncate(inode_id: bytes, size: int, **extra: int) -> Command:
    return _file(extra, truncate=Truncate(inode_id=inode_id, size=size))


def chmod(inode_id: bytes, mode: int, **extra: int) -> Command:
    return _file(extra, chmod=Chmod(inode_id=inode_id, mode=mode))


def chown(inode_id: bytes, uid: int, gid: int, **extra: int) -> Command:
    return _file(extra, chown=Chown(inode_id=inode_id, uid=uid, gid=gid))


def utimens(inode_id: bytes, mtime_ns: int | None, **extra: int) -> Command:
    return _file(extra, utimens=Utimens(inode_id=inode_id, mtime_ns=mtime_ns))


def set_xattr(
    inode_id: bytes, name: bytes, value: bytes, flag: XattrFlag.ValueType = XATTR_FLAG_ANY, **extra: int
) -> Command:
    return _file(extra, set_xattr=SetXattr(inode_id=inode_id, name=name, value=value, flag=flag))


def remove_xattr(inode_id: bytes, name: bytes, **extra: int) -> Command:
    return _file(extra, remove_xattr=RemoveXattr(inode_id=inode_id, name=name))


def sync(inode_id: bytes, **extra: int) -> Command:
    return _file(extra, sync=Sync(inode_id=inode_id))
