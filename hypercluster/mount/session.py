"""The connection to the kernel: mounted, read by threads of which one is always free, ended.

Owns: the callbacks that libfuse calls, which turn C arguments into Python ones; the reading threads.
Never: answers by itself, but for an operation that raised: its errno, or EIO and the trace in the log.
Invariants: a thread that begins with a request leaves another one reading, up to THREADS_MAX; operations wait for the
cluster in the event loop and never in a thread, so that what needs no waiting is always answered. libfuse's session is
never destroyed while the process lives: a late answer would touch freed memory.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Final

from hypercluster.errors import check
from hypercluster.limits import WRITE_BYTES_MAX
from hypercluster.mount import libfuse
from hypercluster.mount.attributes import AttributeOperations
from hypercluster.mount.content import READS_HERE_MAX, ContentOperations
from hypercluster.mount.front import Front
from hypercluster.mount.local.files import LOCAL_HERE_MAX, LocalFiles
from hypercluster.mount.local.locks import LocalLocks
from hypercluster.mount.local.table import is_local
from hypercluster.mount.locks import LockOperations
from hypercluster.mount.request import Request
from hypercluster.mount.turns import carry_out

THREADS_MAX: Final = 32
check(READS_HERE_MAX + LOCAL_HERE_MAX < THREADS_MAX, "what waits leaves threads for everything else")
THREADS_IDLE_MAX: Final = 8
JOIN_S: Final = 2.0

Forget = Callable[[int, int], None]

log = logging.getLogger(__name__)


def _not_supported(request: Request, *_arguments: Any) -> None:
    request.error(errno.EOPNOTSUPP)  # WS-23


def _handle(pointer: Any) -> int | None:
    return int(pointer.contents.fh) if pointer else None


def _calls(front: Front) -> dict[str, Callable[..., None]]:
    """For each member of fuse_lowlevel_ops: from C arguments behind the request to a call of the front."""
    border, local_files, local_locks = front.local.border, front.local.files, front.local.locks

    def metadata(node: int) -> AttributeOperations | LocalFiles:
        return local_files if is_local(node) else front.attributes

    def content(node: int) -> ContentOperations | LocalFiles:
        return local_files if is_local(node) else front.content

    def locks(node: int) -> LockOperations | LocalLocks:
        return local_locks if is_local(node) else front.locks

    return {
        "lookup": border.lookup,
        "mkdir": border.mkdir,
        "unlink": border.unlink,
        "rmdir": border.rmdir,
        "symlink": border.symlink,
        "rename": border.rename,
        "link": border.link,
        "getattr": lambda r, node, _fi: metadata(node).getattr(r, node),
        "setattr": lambda r, node, wanted, which, fi: metadata(node).setattr(
            r, node, wanted.contents, which, _handle(fi)
        ),
        "readlink": lambda r, node: metadata(node).readlink(r, node),
        "statfs": lambda r, _node: front.attributes.statfs(r),
        "setxattr": lambda r, node, name, at, size, flags: metadata(node).setxattr(
            r, node, name, ctypes.string_at(at, size) if size else b"", flags
        ),
        "getxattr": lambda r, node, name, room: metadata(node).getxattr(r, node, name, room),
        "listxattr": lambda r, node, room: metadata(node).listxattr(r, node, room),
        "removexattr": lambda r, node, name: metadata(node).removexattr(r, node, name),
        "create": lambda r, parent, name, mode, fi: border.create(r, parent, name, mode, fi.contents.flags),
        "open": lambda r, node, fi: content(node).open(r, node, fi.contents.flags),
        "read": lambda r, node, size, offset, fi: content(node).read(r, fi.contents.fh, offset, size),
        "write": lambda r, node, at, size, offset, fi: content(node).write(
            r, fi.contents.fh, offset, ctypes.string_at(at, size), fi.contents.flags
        ),
        "flush": lambda r, node, fi: content(node).flush(r, fi.contents.fh, fi.contents.lock_owner),
        "release": lambda r, node, fi: content(node).release(r, fi.contents.fh),
        "fsync": lambda r, node, data_only, fi: content(node).fsync(r, fi.contents.fh, bool(data_only)),
        "opendir": lambda r, node, _fi: content(node).opendir(r, node),
        "readdir": lambda r, _node, room, offset, fi: border.readdir(r, fi.contents.fh, offset, room),
        "releasedir": lambda r, node, fi: content(node).release(r, fi.contents.fh),
        "fsyncdir": lambda r, node, data_only, fi: content(node).fsync(r, fi.contents.fh, bool(data_only)),
        "getlk": lambda r, node, fi, lock: locks(node).getlk(r, fi.contents.fh, fi.contents.lock_owner, lock.contents),
        "setlk": lambda r, node, fi, lock, wait: locks(node).setlk(
            r, fi.contents.fh, fi.contents.lock_owner, lock.contents, bool(wait)
        ),
        "flock": lambda r, node, fi, operation: locks(node).flock(r, fi.contents.fh, operation),
        "mknod": _not_supported,
        "fallocate": _not_supported,
        "copy_file_range": _not_supported,
    }


def _guarded(call: Callable[..., None]) -> Callable[..., None]:
    def callback(raw: int, *arguments: Any) -> None:
        request = Request(raw)
        carry_out(request, lambda: call(request, *arguments))

    return callback


class Session:
    """`mount`, then `start`; `ended` is called from a reading thread once the kernel has no more to ask."""

    def __init__(self, front: Front, options: list[str], ended: Callable[[], None]) -> None:
        self._table = libfuse.LowLevelOperations()
        callbacks: dict[str, Callable[..., None]] = {name: _guarded(call) for name, call in _calls(front).items()}
        callbacks["init"] = _negotiate
        callbacks["forget"] = _forget(front.local.border.forget)
        callbacks["forget_multi"] = _forget_many(front.local.border.forget)
        self._callbacks = [libfuse.CALLBACK_TYPES[name](callback) for name, callback in callbacks.items()]
        for name, callback in zip(callbacks, self._callbacks, strict=True):
            setattr(self._table, name, callback)
        self._session = libfuse.session_new([part for o in options for part in (b"-o", o.encode())], self._table)
        self._ended = ended
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._idle = 0

    def mount(self, directory: str) -> None:
        """Raises OSError; libfuse has written the reason to stderr."""
        if libfuse.session_mount(self._session, os.fsencode(directory)) != 0:
            raise OSError(errno.EIO, "libfuse could not mount (its words are above)", directory)

    def start(self) -> None:
        with self._lock:
            self._spawn()

    def unmount(self) -> None:
        """Lazily: open files go on failing with ENOTCONN or work to their end, new names are not found."""
        libfuse.session_exit(self._session)
        libfuse.session_unmount(self._session)

    def join(self) -> None:
        """Waits a little for the reading threads; they are daemons and hold nothing."""
        for thread in list(self._threads):
            thread.join(JOIN_S)

    def invalidate(self, node: int, offset: int, length: int) -> None:
        """The kernel forgets a file's attributes and these bytes of it: length 0 means up to the end, and a negative
        offset no bytes. With bytes it may wait for a read that is under way. A node it does not know is fine."""
        answer: int = libfuse.notify_inval_inode(self._session, node, offset, length)
        if answer not in {0, -errno.ENOENT}:
            raise OSError(-answer, "the kernel does not forget what it has cached")

    def _spawn(self) -> None:
        """Called with the lock held."""
        thread = threading.Thread(target=self._read, name="fuse", daemon=True)
        self._threads.add(thread)
        self._idle += 1
        thread.start()

    def _read(self) -> None:
        buffer = libfuse.Buffer()
        over = False
        while not over:
            size: int = libfuse.session_receive(self._session, ctypes.byref(buffer))
            if size == -errno.EINTR:
                continue
            if size <= 0:
                over = True
                break
            with self._lock:
                self._idle -= 1
                if self._idle == 0 and len(self._threads) < THREADS_MAX:
                    self._spawn()
            libfuse.session_process(self._session, ctypes.byref(buffer))
            with self._lock:
                if self._idle >= THREADS_IDLE_MAX:
                    break
                self._idle += 1
        libfuse.free(buffer.mem)
        with self._lock:
            self._threads.discard(threading.current_thread())
        if over:
            self._ended()


def _negotiate(_unused: object, connection: Any) -> None:
    offer = connection.contents
    offer.max_write = WRITE_BYTES_MAX
    unwanted = libfuse.CAP_SPLICE | libfuse.CAP_READDIRPLUS | libfuse.CAP_WRITEBACK_CACHE
    wanted = (
        libfuse.CAP_POSIX_LOCKS
        | libfuse.CAP_FLOCK_LOCKS
        | libfuse.CAP_ATOMIC_O_TRUNC
        | libfuse.CAP_AUTO_INVAL_DATA
        | libfuse.CAP_PARALLEL_DIROPS
    )
    offer.want = (offer.want | (wanted & offer.capable)) & ~unwanted


def _forget(forget: Forget) -> Callable[[int, int, int], None]:
    def callback(raw: int, node: int, lookups: int) -> None:
        forget(node, lookups)
        Request(raw).none()

    return callback


def _forget_many(forget: Forget) -> Callable[[int, int, Any], None]:
    def callback(raw: int, count: int, forgotten: Any) -> None:
        for i in range(count):
            forget(forgotten[i].ino, forgotten[i].nlookup)
        Request(raw).none()

    return callback
