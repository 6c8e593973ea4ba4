"""Which thread does what may take long: the one that read the request, or one beside the session's (WS-65).

Owns: `Turns`: so many pieces of work at a time in the session's own threads, the rest in threads of their own.
Never: waits for the cluster; that is done in the event loop and holds no thread.
Invariants: whatever is stuck (bytes that no node has, a disk of this host) leaves threads that answer everything else,
the watchdog's question first; each request is answered, by the work or with its error.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from hypercluster.mount.request import Request

log = logging.getLogger(__name__)


def carry_out(request: Request, work: Callable[[], None]) -> None:
    """`work` answers the request; where it fails first, the error does."""
    try:
        work()
    except OSError as error:
        if not request.answered:
            request.error(error.errno or errno.EIO)
    except Exception:
        log.exception("a request failed inside the mount")
        if not request.answered:
            request.error(errno.EIO)


class Turns:
    """`here_max` in the threads of requests, `aside_max` in others, which are made when they are needed."""

    def __init__(self, here_max: int, aside_max: int, name: str) -> None:
        self._here = threading.BoundedSemaphore(here_max)
        self._aside = ThreadPoolExecutor(aside_max, name)

    def take(self, request: Request, work: Callable[[], None]) -> None:
        """`work` answers the request, or raises OSError."""
        if not self._here.acquire(blocking=False):
            self._aside.submit(carry_out, request, work)
            return
        try:
            work()
        finally:
            self._here.release()

    def end(self) -> None:
        """Nothing further is taken aside."""
        self._aside.shutdown(wait=False, cancel_futures=True)
