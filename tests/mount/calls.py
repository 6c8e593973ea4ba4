"""System calls that Python has no function for."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


def renameat2(source: Path, target: Path, flags: int) -> None:
    answer = _libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags)
    if answer != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """The system call itself: posix_fallocate writes zeros where a file system can not."""
    if _libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def refusal(call: Callable[..., object], *arguments: object, **named: object) -> str:
    """The name of the errno it is refused with, 'ok' if it is not."""
    try:
        call(*arguments, **named)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"
