"""Who a data directory belongs to (CL-15): cluster, node, incarnation, history, format; and the lock on it.

Owns: DATA/identity, DATA/lock.
Never: an identity made twice. An incarnation is one life of a directory: whoever lost the directory, or finds it
damaged, joins with a new one, because the votes the old one gave are not remembered.
Invariants: the file appears whole or not at all, and is never overwritten; what is read back renders to the very
bytes of the file, so that nothing in it can change unnoticed; a directory is open in at most one process.
Format: lines "name: value", the last one the CRC-32C of all before it. That last line, and the first one with
the format version, keep their form in every later version.
"""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass
from typing import Final

from google_crc32c import value as crc32c

from hypercluster.credentials.names import node_subject
from hypercluster.errors import REJOIN, DamagedError, MalformedError, WrongDirectoryError, check
from hypercluster.storage.disk import Disk
from hypercluster.values import ClusterId, HistoryId, Incarnation, NodeId

FORMAT_VERSION: Final = 1
IDENTITY_NAME: Final = "identity"
LOCK_NAME: Final = "lock"
IDENTITY_BYTES_MAX: Final = 4_096
ID_BYTES: Final = 16
_TEMPORARY_NAME: Final = "identity.tmp"
_FIRST_LINE: Final = re.compile(rb"hypercluster data directory, format: ([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Identity:
    """Fixed for the life of a data directory. The three ids are 16 random bytes each."""

    cluster_id: ClusterId
    node_id: NodeId
    incarnation: Incarnation
    history_id: HistoryId
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for name, value in (
            ("cluster_id", self.cluster_id),
            ("incarnation", self.incarnation),
            ("history_id", self.history_id),
        ):
            if len(value) != ID_BYTES or value == bytes(ID_BYTES):
                raise MalformedError(f"{name}: expected {ID_BYTES} bytes, not all zero")
        node_subject(self.cluster_id, self.node_id)  # its pattern
        if self.format_version != FORMAT_VERSION:
            raise MalformedError(f"format_version: {self.format_version}, this release writes {FORMAT_VERSION}")


def new_cluster_id() -> ClusterId:
    return ClusterId(os.urandom(ID_BYTES))


def new_incarnation() -> Incarnation:
    return Incarnation(os.urandom(ID_BYTES))


def new_history_id() -> HistoryId:
    return HistoryId(os.urandom(ID_BYTES))


class DirectoryLock:
    """Held for as long as the process works in the directory; the kernel lets go of it when the process ends."""

    def __init__(self, directory: str) -> None:
        """Raises WrongDirectoryError, naming the process that has the directory, when it is taken."""
        self.directory = directory
        path = os.path.join(directory, LOCK_NAME)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise WrongDirectoryError(
                f"{directory} is open in another process (pid {holder}): stop that one first, or give this node "
                "a data directory of its own"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        # For the message above only: the lock is the kernel's, never this text.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        self._descriptor: int | None = descriptor

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def release(self) -> None:
        """Idempotent. The file stays: unlinking it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def create_identity(disk: Disk, directory: str, identity: Identity) -> None:
    """Makes `directory` this node's. Call it with the DirectoryLock held.

    Raises WrongDirectoryError when anything but the traces of an interrupted attempt is there: what an existing
    directory remembers (votes, log) must not be joined to another identity."""
    if disk.exists(directory):
        present = [name for name in disk.listdir(directory) if name not in {LOCK_NAME, _TEMPORARY_NAME}]
        if IDENTITY_NAME in present:
            raise WrongDirectoryError(
                f"{directory} is a data directory already: start the node with it, or choose an empty directory"
            )
        if present:
            raise WrongDirectoryError(
                f"{directory} is not empty (it holds {present[0]!r}): choose an empty directory, or move what is there"
            )
    else:
        disk.mkdir(directory)
    temporary = os.path.join(directory, _TEMPORARY_NAME)
    if disk.exists(temporary):
        disk.unlink(temporary)
    file = disk.open(temporary, create=True)
    try:
        file.pwrite(render(identity), 0)
        file.fsync()
    finally:
        file.close()
    disk.rename(temporary, os.path.join(directory, IDENTITY_NAME))
    disk.fsync_dir(directory)
    check(load_identity(disk, directory) == identity, "the identity just written reads back differently")


def load_identity(disk: Disk, directory: str) -> Identity:
    """Raises WrongDirectoryError (no identity here, or a newer format) or DamagedError."""
    path = os.path.join(directory, IDENTITY_NAME)
    if not disk.exists(path):
        contents = disk.listdir(directory) if disk.exists(directory) else []
        if any(name not in {LOCK_NAME, _TEMPORARY_NAME} for name in contents):
            raise WrongDirectoryError(
                f"{directory} has no identity file but is not empty: it is not a data directory, or it lost its "
                f"identity. {REJOIN}"
            )
        raise WrongDirectoryError(
            f"{directory} is empty: a node never makes an identity by itself. `hypercluster cluster init` makes the "
            f"directories of a new cluster. If this one was in use and lost its content: {REJOIN}"
        )
    file = disk.open(path)
    try:
        content = file.pread(IDENTITY_BYTES_MAX + 1, 0)
    finally:
        file.close()
    return parse(content, path)


def open_identity(disk: Disk, directory: str, cluster_id: ClusterId | None, node_id: NodeId | None) -> Identity:
    """`load_identity`, and the directory is the one the configuration names (None: not configured).

    Raises WrongDirectoryError or DamagedError."""
    identity = load_identity(disk, directory)
    if cluster_id is not None and identity.cluster_id != cluster_id:
        raise WrongDirectoryError(
            f"{directory} belongs to cluster {identity.cluster_id.hex()}, the configuration names {cluster_id.hex()}: "
            "correct the configuration, or choose another data directory"
        )
    if node_id is not None and identity.node_id != node_id:
        raise WrongDirectoryError(
            f"{directory} belongs to node {identity.node_id!r}, the configuration names {node_id!r}: "
            "correct the configuration, or choose another data directory"
        )
    return identity


def render(identity: Identity) -> bytes:
    body = (
        f"hypercluster data directory, format: {identity.format_version}\n"
        f"cluster id: {identity.cluster_id.hex()}\n"
        f"node id: {identity.node_id}\n"
        f"incarnation: {identity.incarnation.hex()}\n"
        f"history id: {identity.history_id.hex()}\n"
    ).encode("ascii")
    return body + _crc_line(body)


def parse(content: bytes, path: str) -> Identity:
    """`path` is for messages. Raises WrongDirectoryError for a newer format, DamagedError for anything else."""
    damaged = DamagedError(f"{path} is damaged: this directory's incarnation can not be trusted. {REJOIN}")
    end = content.rfind(b"\n", 0, -1) + 1
    body, crc_line = content[:end], content[end:]
    if len(content) > IDENTITY_BYTES_MAX or not body or crc_line != _crc_line(body):
        raise damaged
    lines = body.split(b"\n")
    first = _FIRST_LINE.fullmatch(lines[0])
    if first is None:
        raise damaged
    version = int(first[1])
    if version > FORMAT_VERSION:
        raise WrongDirectoryError(
            f"{path} has format {version}, this release reads up to {FORMAT_VERSION}: install the release that wrote it"
        )
    try:
        values = [line.split(b": ", 1)[1].decode("ascii") for line in lines[1:-1]]
        cluster_id, node_id, incarnation, history_id = values
        identity = Identity(
            ClusterId(bytes.fromhex(cluster_id)),
            NodeId(node_id),
            Incarnation(bytes.fromhex(incarnation)),
            HistoryId(bytes.fromhex(history_id)),
        )
    except (ValueError, IndexError, MalformedError) as error:
        raise damaged from error
    if render(identity) != content:
        raise damaged
    return identity


def _crc_line(body: bytes) -> bytes:
    return f"crc32c: {crc32c(body):08x}\n".encode("ascii")
