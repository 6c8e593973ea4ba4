"""The C side of the mount: libfuse 3's low-level interface, as mfusepy has loaded it.

Owns: the one import of mfusepy, the structures and signatures of the low-level interface that mfusepy does not declare,
and the error that says what to install.
Never: meaning; what a request is answered with stands in front.py.
Why low-level: libfuse's high-level interface names everything by path. There a rename by another host over an open file
gives two files one kernel inode, and an open beside a local rename fails with ENOENT (libfuse issue 637), which git
does not forgive. Here the kernel's node id is the InodeNo, so a name that means another file is another node at once.
Invariants: what mfusepy declares differently from version to version (fuse_file_info, fuse_conn_info, stat) is taken
from it; the rest has kept its layout since libfuse 3.0. Requests are taken apart and answered holding the GIL, for that
is short: a thread that gave it away in between would wait for it again. Whatever can block releases it.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_double, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, Final

os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")  # never libfuse 2, which may be installed beside it

import mfusepy as binding

library: Final[Any] = binding._libfuse
_holding_gil: Final = ctypes.PyDLL(library._name)

FileInfo: Final[Any] = binding.fuse_file_info
ConnectionInfo: Final[Any] = binding.fuse_conn_info
Stat: Final[Any] = binding.c_stat
StatVfs: Final[Any] = binding.c_statvfs
Buffer: Final[Any] = binding.fuse_buf

CAP_POSIX_LOCKS: Final = 1 << 1
CAP_ATOMIC_O_TRUNC: Final = 1 << 3
CAP_SPLICE: Final = 1 << 7 | 1 << 8 | 1 << 9
CAP_FLOCK_LOCKS: Final = 1 << 10
CAP_AUTO_INVAL_DATA: Final = 1 << 12
CAP_READDIRPLUS: Final = 1 << 13 | 1 << 14
CAP_WRITEBACK_CACHE: Final = 1 << 16
CAP_PARALLEL_DIROPS: Final = 1 << 18

SET_MODE: Final = 1 << 0
SET_UID: Final = 1 << 1
SET_GID: Final = 1 << 2
SET_SIZE: Final = 1 << 3
SET_MTIME: Final = 1 << 5
SET_MTIME_NOW: Final = 1 << 8

ROOT_NODE: Final = 1  # FUSE_ROOT_ID


class EntryParam(ctypes.Structure):
    """struct fuse_entry_param."""

    _fields_ = [
        ("ino", c_uint64),
        ("generation", c_uint64),
        ("attr", Stat),
        ("attr_timeout", c_double),
        ("entry_timeout", c_double),
    ]


class Context(ctypes.Structure):
    """struct fuse_ctx."""

    _fields_ = [("uid", c_uint), ("gid", c_uint), ("pid", c_int), ("umask", c_uint)]


class Flock(ctypes.Structure):
    """struct flock of a 64-bit Linux."""

    _fields_ = [
        ("l_type", ctypes.c_short),
        ("l_whence", ctypes.c_short),
        ("l_start", ctypes.c_int64),
        ("l_len", ctypes.c_int64),
        ("l_pid", c_int),
    ]


class Forgotten(ctypes.Structure):
    """struct fuse_forget_data."""

    _fields_ = [("ino", c_uint64), ("nlookup", c_uint64)]


class Arguments(ctypes.Structure):
    """struct fuse_args."""

    _fields_ = [("argc", c_int), ("argv", POINTER(c_char_p)), ("allocated", c_int)]


class Version(ctypes.Structure):
    """struct libfuse_version, of libfuse 3.17 and later."""

    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("hotfix", ctypes.c_uint32), ("pad", c_uint)]


FileInfoPointer: Final = POINTER(FileInfo)
_REQUEST: Final = c_void_p
_NODE: Final = c_uint64
_NAME: Final = c_char_p
_OFFSET: Final = ctypes.c_int64
_BYTES: Final = c_void_p  # not c_char_p: content may hold NUL

InterruptFunction: Final = CFUNCTYPE(None, c_void_p, c_void_p)

# struct fuse_lowlevel_ops, in its order: a member's name and its arguments.
_MEMBERS: Final[tuple[tuple[str, tuple[Any, ...]], ...]] = (
    ("init", (c_void_p, POINTER(ConnectionInfo))),
    ("destroy", (c_void_p,)),
    ("lookup", (_REQUEST, _NODE, _NAME)),
    ("forget", (_REQUEST, _NODE, c_uint64)),
    ("getattr", (_REQUEST, _NODE, FileInfoPointer)),
    ("setattr", (_REQUEST, _NODE, POINTER(Stat), c_int, FileInfoPointer)),
    ("readlink", (_REQUEST, _NODE)),
    ("mknod", (_REQUEST, _NODE, _NAME, c_uint, c_uint64)),
    ("mkdir", (_REQUEST, _NODE, _NAME, c_uint)),
    ("unlink", (_REQUEST, _NODE, _NAME)),
    ("rmdir", (_REQUEST, _NODE, _NAME)),
    ("symlink", (_REQUEST, _NAME, _NODE, _NAME)),
    ("rename", (_REQUEST, _NODE, _NAME, _NODE, _NAME, c_uint)),
    ("link", (_REQUEST, _NODE, _NODE, _NAME)),
    ("open", (_REQUEST, _NODE, FileInfoPointer)),
    ("read", (_REQUEST, _NODE, c_size_t, _OFFSET, FileInfoPointer)),
    ("write", (_REQUEST, _NODE, _BYTES, c_size_t, _OFFSET, FileInfoPointer)),
    ("flush", (_REQUEST, _NODE, FileInfoPointer)),
    ("release", (_REQUEST, _NODE, FileInfoPointer)),
    ("fsync", (_REQUEST, _NODE, c_int, FileInfoPointer)),
    ("opendir", (_REQUEST, _NODE, FileInfoPointer)),
    ("readdir", (_REQUEST, _NODE, c_size_t, _OFFSET, FileInfoPointer)),
    ("releasedir", (_REQUEST, _NODE, FileInfoPointer)),
    ("fsyncdir", (_REQUEST, _NODE, c_int, FileInfoPointer)),
    ("statfs", (_REQUEST, _NODE)),
    ("setxattr", (_REQUEST, _NODE, _NAME, _BYTES, c_size_t, c_int)),
    ("getxattr", (_REQUEST, _NODE, _NAME, c_size_t)),
    ("listxattr", (_REQUEST, _NODE, c_size_t)),
    ("removexattr", (_REQUEST, _NODE, _NAME)),
    ("access", (_REQUEST, _NODE, c_int)),
    ("create", (_REQUEST, _NODE, _NAME, c_uint, FileInfoPointer)),
    ("getlk", (_REQUEST, _NODE, FileInfoPointer, POINTER(Flock))),
    ("setlk", (_REQUEST, _NODE, FileInfoPointer, POINTER(Flock), c_int)),
    ("bmap", (_REQUEST, _NODE, c_size_t, c_uint64)),
    ("ioctl", (_REQUEST, _NODE, c_uint, c_void_p, FileInfoPointer, c_uint, c_void_p, c_size_t, c_size_t)),
    ("poll", (_REQUEST, _NODE, FileInfoPointer, c_void_p)),
    ("write_buf", (_REQUEST, _NODE, c_void_p, _OFFSET, FileInfoPointer)),
    ("retrieve_reply", (_REQUEST, c_void_p, _NODE, _OFFSET, c_void_p)),
    ("forget_multi", (_REQUEST, c_size_t, POINTER(Forgotten))),
    ("flock", (_REQUEST, _NODE, FileInfoPointer, c_int)),
    ("fallocate", (_REQUEST, _NODE, c_int, _OFFSET, _OFFSET, FileInfoPointer)),
    ("readdirplus", (_REQUEST, _NODE, c_size_t, _OFFSET, FileInfoPointer)),
    (
        "copy_file_range",
        (_REQUEST, _NODE, _OFFSET, FileInfoPointer, _NODE, _OFFSET, FileInfoPointer, c_size_t, c_int),
    ),
    ("lseek", (_REQUEST, _NODE, _OFFSET, c_int, FileInfoPointer)),
)


class LowLevelOperations(ctypes.Structure):
    """struct fuse_lowlevel_ops; a member that is not set answers ENOSYS."""

    _fields_ = [(name, CFUNCTYPE(None, *arguments)) for name, arguments in _MEMBERS]


CALLBACK_TYPES: Final[dict[str, Any]] = dict(LowLevelOperations._fields_)  # type: ignore[arg-type]


def _declare(source: Any, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(source, name)
    function.restype = result
    function.argtypes = arguments
    return function


request_context: Final = _declare(_holding_gil, "fuse_req_ctx", POINTER(Context), c_void_p)
reply_error: Final = _declare(_holding_gil, "fuse_reply_err", c_int, c_void_p, c_int)
reply_none: Final = _declare(_holding_gil, "fuse_reply_none", None, c_void_p)
reply_entry: Final = _declare(_holding_gil, "fuse_reply_entry", c_int, c_void_p, POINTER(EntryParam))
reply_create: Final = _declare(_holding_gil, "fuse_reply_create", c_int, c_void_p, POINTER(EntryParam), FileInfoPointer)
reply_attr: Final = _declare(_holding_gil, "fuse_reply_attr", c_int, c_void_p, POINTER(Stat), c_double)
reply_open: Final = _declare(_holding_gil, "fuse_reply_open", c_int, c_void_p, FileInfoPointer)
reply_write: Final = _declare(_holding_gil, "fuse_reply_write", c_int, c_void_p, c_size_t)
reply_bytes: Final = _declare(_holding_gil, "fuse_reply_buf", c_int, c_void_p, c_char_p, c_size_t)
reply_statfs: Final = _declare(_holding_gil, "fuse_reply_statfs", c_int, c_void_p, POINTER(StatVfs))
reply_xattr_size: Final = _declare(_holding_gil, "fuse_reply_xattr", c_int, c_void_p, c_size_t)
reply_lock: Final = _declare(_holding_gil, "fuse_reply_lock", c_int, c_void_p, POINTER(Flock))
add_direntry: Final = _declare(
    _holding_gil, "fuse_add_direntry", c_size_t, c_void_p, c_void_p, c_size_t, c_char_p, POINTER(Stat), _OFFSET
)

# Under a request's lock libfuse calls its interrupt function, which waits for the GIL. So nobody may wait for that lock
# and hold the GIL while such a function is set: it is set once a request, and an interrupt comes once a request.
on_interrupt: Final = _declare(_holding_gil, "fuse_req_interrupt_func", None, c_void_p, InterruptFunction, c_void_p)
session_process: Final = _declare(_holding_gil, "fuse_session_process_buf", None, c_void_p, POINTER(Buffer))

# These may block: the GIL is released.
session_mount: Final = _declare(library, "fuse_session_mount", c_int, c_void_p, c_char_p)
session_unmount: Final = _declare(library, "fuse_session_unmount", None, c_void_p)
session_exit: Final = _declare(library, "fuse_session_exit", None, c_void_p)
session_exited: Final = _declare(_holding_gil, "fuse_session_exited", c_int, c_void_p)
session_receive: Final = _declare(library, "fuse_session_receive_buf", c_int, c_void_p, POINTER(Buffer))
notify_inval_inode: Final = _declare(
    library, "fuse_lowlevel_notify_inval_inode", c_int, c_void_p, c_uint64, _OFFSET, _OFFSET
)
free: Final = _declare(ctypes.CDLL(None), "free", None, c_void_p)  # a reading thread's buffer, which libfuse made


def session_new(options: list[bytes], operations: LowLevelOperations) -> int:
    """A session that is not mounted yet. Raises OSError(EINVAL) for options libfuse does not take."""
    argv = (c_char_p * (len(options) + 2))(b"hypercluster", *options, None)
    arguments = Arguments(len(options) + 1, ctypes.cast(argv, POINTER(c_char_p)), 0)
    size = ctypes.sizeof(LowLevelOperations)
    if hasattr(library, "fuse_session_new"):
        new = _declare(
            library, "fuse_session_new", c_void_p, POINTER(Arguments), POINTER(LowLevelOperations), c_size_t, c_void_p
        )
        made = new(ctypes.byref(arguments), ctypes.byref(operations), size, None)
    else:  # libfuse 3.17 and later
        new = _declare(
            library,
            "fuse_session_new_versioned",
            c_void_p,
            POINTER(Arguments),
            POINTER(LowLevelOperations),
            c_size_t,
            POINTER(Version),
            c_void_p,
        )
        version = Version(3, 14, 0, 0)
        made = new(ctypes.byref(arguments), ctypes.byref(operations), size, ctypes.byref(version), None)
    if not made:
        raise OSError(22, f"libfuse does not take the mount options {b' '.join(options).decode(errors='replace')}")
    session: int = made
    return session
