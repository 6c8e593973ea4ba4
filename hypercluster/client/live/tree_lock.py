"""The lock of a live tree, taken in turns.

Owns: `TreeLock`. A plain lock goes back to a thread that releases and takes it in a loop, as the one that applies does,
and readers would starve. Here whoever comes stands at a gate first, and the one that comes back stands behind them.
"""

from __future__ import annotations

from threading import Lock


class TreeLock:
    """Not reentrant."""

    __slots__ = ("_gate", "_lock")

    def __init__(self) -> None:
        self._gate = Lock()
        self._lock = Lock()

    def __enter__(self) -> None:
        with self._gate:
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
