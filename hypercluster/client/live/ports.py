"""What a file system front (the FUSE mount, the library) may ask of a live tree: the two ports and their words.

Owns: `View`, reads of one prefix of the log, from any thread; `LiveTree`, mutations and the life of the replica, in the
event loop; the records both speak in.
Never: knowledge of FUSE, of the wire or of the store.
Invariants: a read sees one prefix S_k of the log (WS-1), and a later read of the same thread sees the same or a later
one; `mutate` returns once the operation is committed on a majority and applied here (WS-2); every refusal is an OSError
with the errno of the model, EROFS where no leader with a quorum was found and nothing was sent (WS-3), EIO where the
outcome stayed open (WS-4), ESTALE for a stale fencing token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Event
from typing import Any, Final, Protocol, TypeVar

from hypercluster.pb.v1.workspace_command_pb2 import FileAck, FileCommand
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK

T = TypeVar("T")

ROOT_ID: Final = bytes(16)  # the inode id of the root directory

__all__ = [
    "KIND_DIRECTORY",
    "KIND_FILE",
    "KIND_SYMLINK",
    "ROOT_ID",
    "Applied",
    "Listed",
    "LiveStatus",
    "LiveTree",
    "Node",
    "Process",
    "Recall",
    "View",
]


@dataclass(frozen=True, slots=True)
class Process:
    """Who makes a call: with the start ticks a pid names one process for ever (WS-10)."""

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Node:
    """A file, directory or symlink at one prefix. `nlink` 0: it has no name any more and lives while it is held."""

    inode_id: bytes
    ino: int  # st_ino
    kind: int  # KIND_FILE, KIND_DIRECTORY or KIND_SYMLINK
    mode: int  # permission bits
    uid: int
    gid: int
    size: int
    nlink: int
    mtime_ns: int
    ctime_ns: int
    symlink_target: bytes
    content_index: int  # log_index of the last change of content, of metadata (WS-28)
    metadata_index: int


@dataclass(frozen=True, slots=True)
class Listed:
    """What an entry of a directory names: what never changes of it."""

    inode_id: bytes
    ino: int
    kind: int


@dataclass(frozen=True, slots=True)
class Applied:
    """What one applied operation changed, for caches above. Told before `applied_index` passes it (WS-62)."""

    log_index: int
    inodes: tuple[bytes, ...]  # attributes changed
    content: tuple[tuple[bytes, int, int], ...]  # (inode, offset, length) whose bytes changed; length -1: to the end
    entries: tuple[tuple[bytes, bytes], ...]  # (directory, name) that names something else now, or nothing
    own: Process | None  # who here asked for it; None: somebody else's
    everything: bool = False  # the whole tree was replaced by a snapshot: nothing that was known holds


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """For people and for the session with the cluster."""

    workspace: str
    worker: str
    state: str
    applied_index: int
    durable_index: int  # what a restart begins with
    cluster_index: int  # as far as this worker has heard
    root: str
    read_only_reason: str
    last_problem: str  # what the last broken stream said
    error_log_index: int  # last_apply_error (WS-5); 0: none
    error_errno: int
    error_message: str
    held: int  # inodes held open here
    orphans: int
    lanes: int
    chunk_bytes: int  # in the local cache
    snapshots: int  # trees built from a snapshot since the start


class Recall:
    """Asks for a mutation back, for a system call that is interrupted: it ends with EINTR if nothing of it was sent,
    and goes on otherwise. One for each call of `mutate`."""

    def __init__(self) -> None:
        self._asked = Event()
        self._act: Callable[[], object] | None = None

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def ask(self) -> None:
        """From any thread, any number of times."""
        self._asked.set()
        if self._act is not None:
            self._act()

    def bind(self, act: Callable[[], object]) -> None:
        """`act` may be called from any thread, from now on, and is called now if it was asked already."""
        self._act = act
        if self._asked.is_set():
            act()


class View(Protocol):
    """Reads. Synchronous and thread-safe; each raises OSError: ENOENT, ENOTDIR, EISDIR, ENODATA, EINVAL; EIO when bytes
    that are not cached could be got from no node."""

    @property
    def applied_index(self) -> int: ...

    @property
    def root(self) -> bytes:
        """fs_merkle_root at `applied_index`."""

    @property
    def uid(self) -> int:
        """The one effective uid of the workspace (WS-6)."""

    @property
    def gid(self) -> int: ...

    @property
    def read_only_reason(self) -> str:
        """Why nothing can be changed at present, in words for people; '' when it can."""

    def lookup(self, directory: bytes, name: bytes) -> Node: ...

    def node(self, inode_id: bytes) -> Node: ...

    def xattrs(self, inode_id: bytes) -> list[bytes]:
        """Their names, sorted."""

    def list(self, directory: bytes) -> list[tuple[bytes, Listed]]:
        """Every entry, bytewise sorted (WS-16), without '.' and '..'. Others are held up by the newest entries alone,
        those of the last moments, however large the directory is."""

    def read(self, inode_id: bytes, offset: int, size: int) -> bytes:
        """Fewer bytes than `size` only at the end of the file. Must not be called in the event loop: bytes that have
        left the local cache are fetched."""

    def xattr(self, inode_id: bytes, name: bytes) -> bytes: ...

    def resolve(self, path: bytes) -> Node:
        """From the root, '/'-separated; symlinks are not followed."""

    def path_of(self, inode_id: bytes) -> bytes | None:
        """One path of it, without a leading '/', b'' for the root; None when it has no name."""

    def parent_of(self, directory: bytes) -> bytes:
        """The directory a directory stands in; the root is its own."""

    def totals(self) -> tuple[int, int]:
        """(bytes of content, inodes with a name)."""


AppliedCallback = Callable[[Applied], Awaitable[None] | None]


class LiveTree(Protocol):
    """The tree of one workspace as this worker has it. Coroutines belong to the loop it was entered in."""

    @property
    def view(self) -> View: ...

    @property
    def workspace_id(self) -> bytes: ...

    @property
    def worker(self) -> str: ...

    async def mutate(
        self, process: Process, command: FileCommand, content: bytes | None = None, *, recall: Recall | None = None
    ) -> FileAck:
        """Proposes through the lane of `process` and returns once it is committed on a majority and applied here.
        `content` is what a `write` command carries, at most WRITE_BYTES_MAX; the command's own inline and pieces are
        left empty then. Raises OSError. Cancelled before anything was sent, it is not done; afterwards it goes on, and
        only the caller stops waiting."""

    async def check_writable(self) -> None:
        """For open-for-write and locks (WS-3): returns once a leader with a quorum is known to be there, raises
        OSError(EROFS) if none is found in time, or at once when the tree is read-only."""

    async def barrier(self) -> int:
        """A confirmed read index, applied here: reads that begin afterwards are linearizable (WS-2). Answers its
        log_index. Raises OSError."""

    async def wait_applied(self, log_index: int) -> None: ...

    def hold(self, inode_id: bytes) -> Node:
        """Opened once more here: content and attributes stay while it is held, named or not. From any thread. Raises
        OSError(ENOENT)."""

    def drop(self, inode_id: bytes) -> None:
        """Closed once. From any thread."""

    def on_applied(self, callback: AppliedCallback) -> None:
        """Called in the loop for each applied operation, before `applied_index` passes it. A callback that raises makes
        the tree read-only. It must not wait for a mutation."""

    def run_in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """From a synchronous thread: runs it in the loop and waits for what it returns or raises."""

    def begin_in_loop(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """The same without waiting. Cancelling the future cancels the work."""

    def status(self) -> LiveStatus: ...
