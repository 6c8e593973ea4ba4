"""Going into a network namespace: this thread for good, or only while something is opened there.

Owns: the call setns, which Python 3.11 does not have.
Never: makes or removes a namespace.
Invariants: after `inside` the thread is where it was before, whatever happened; a socket belongs for ever to the
namespace it was opened in. Threads started later are born where their maker is.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PLACE = Path("/run/netns")  # where `ip netns` keeps the names
CLONE_NEWNET = 0x40000000

T = TypeVar("T")


def enter(namespace: str) -> None:
    """'' stays here. Raises OSError."""
    if namespace:
        descriptor = os.open(PLACE / namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(descriptor)
        finally:
            os.close(descriptor)


def inside(namespace: str, work: Callable[[], T]) -> T:
    """What `work` returns, done there. Raises OSError."""
    if not namespace:
        return work()
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(namespace)
        try:
            return work()
        finally:
            _setns(home)
    finally:
        os.close(home)


def _setns(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
