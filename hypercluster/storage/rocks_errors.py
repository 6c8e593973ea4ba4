"""What an exception of the RocksDB binding means: it knows one exception type, and only the text differs.

Owns: the translation to our error tree, for opening and for writing.
Never: hides an error or tries again.
"""

from __future__ import annotations

import errno
from typing import Final

from rocksdict import DbClosedError, RdictIter

from hypercluster.errors import (
    REJOIN,
    DamagedError,
    DiskFailedError,
    DiskFullError,
    FatalError,
    HyperClusterError,
    TurnedAwayError,
    WrongDirectoryError,
)

RESEED: Final = REJOIN
DISK_TROUBLE: Final = ("Input/output error", "Structure needs cleaning", "Read-only file system")


def opening_error(path: str, error: Exception, way_out: str) -> FatalError | HyperClusterError:
    """`way_out` names what mends damage."""
    text = str(error)
    if _is_full(text):  # nothing is damaged, so nothing must be removed
        return DiskFullError(f"no room to open {path}: {text}. Make room on this disk, then start the node again")
    if "While lock file" in text or "lock hold by current process" in text:
        return WrongDirectoryError(f"{path} is open in another process: stop that one first")
    if "Too many open files" in text or any(words in text for words in DISK_TROUBLE):
        return DiskFailedError(f"opening {path} failed: {text}")
    return DamagedError(f"{path} does not open: {text}. {way_out}")


def reading_error(path: str, error: Exception, way_out: str) -> BaseException:
    """A closed database turns the reader away; anything else is damage (RocksDB checks every block it reads)."""
    text = str(error)
    if isinstance(error, DbClosedError):
        return TurnedAwayError("the state was closed or replaced while it was being read; ask again")
    if any(words in text for words in DISK_TROUBLE):
        return DiskFailedError(f"reading {path} failed: {text}")
    return DamagedError(f"{path} is damaged: {text}. {way_out}")


def check_iterator(iterator: RdictIter, path: str, way_out: str) -> None:
    """At the end of every iteration: an iterator just ends at a damaged block, and tells only when asked. (The
    binding's items() and keys() never tell, so nothing here uses them.)"""
    try:
        iterator.status()
    except Exception as error:  # the binding knows one exception type only
        raise reading_error(path, error, way_out) from error


def is_stall(error: Exception) -> bool:
    """A write with no_slowdown that would have waited; nothing was written."""
    return str(error).startswith("Result incomplete") or "Write stall" in str(error)


def writing_error(path: str, error: Exception) -> FatalError | HyperClusterError:
    text = str(error)
    if _is_full(text):
        return DiskFullError(f"no room in {path}: {text}")
    return DiskFailedError(f"writing to {path} failed: {text}")


def _is_full(text: str) -> bool:
    return "No space left" in text or errno.errorcode[errno.ENOSPC] in text or "Disk quota" in text
