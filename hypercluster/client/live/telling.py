"""From visible to published: whoever keeps caches above is told of each operation, in order (WS-62).

Owns: `Teller`: what is visible and not published yet, and the wait for callbacks that wait.
Never: holds up what becomes visible, but for UNTOLD_MAX: a kernel that is to drop a page waits for the read that fills
it, and that read may wait for bytes only a tree yet to be applied has.
Invariants: operations are told in order, each once its callbacks have heard of the one before; where no callback waits,
at once. After a callback has failed nothing is told until the tree goes on, and then that one first.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from hypercluster.client.live.ports import Applied
from hypercluster.client.live.publishing import Publishing
from hypercluster.client.worker.state import Failure

UNTOLD_MAX: Final = 4_096  # operations


class Teller:
    """In the loop. `stopped` says whether the tree has stopped; `stop` does it, for a callback that failed."""

    def __init__(self, publishing: Publishing, stopped: Callable[[], bool], stop: Callable[[Failure], None]) -> None:
        self._publishing = publishing
        self._stopped = stopped
        self._stop = stop
        self._untold: deque[Applied] = deque()
        self._wait: Awaitable[None] | None = None  # what the callbacks of the first of them wait for
        self._woken = asyncio.Event()
        self._told = asyncio.Event()

    def tell(self, applied: Sequence[Applied]) -> None:
        waits = bool(self._untold)
        self._untold.extend(applied)
        if not waits:
            self._tell_at_once()

    def _tell_at_once(self) -> None:
        """As far as no callback waits."""
        while self._untold and not self._stopped():
            try:
                self._wait = self._publishing.publish(self._untold[0])
            except Exception as error:
                self._fail(error)
                return
            if self._wait is not None:
                self._woken.set()
                return
            self._untold.popleft()
        self._told.set()

    def _fail(self, error: Exception) -> None:
        """Caches above may hold what is no longer true."""
        words = f"what is cached above could not be told of it: {error!r}"
        self._stop(Failure(self._untold[0].log_index, errno.EIO, words, kept=False))
        self._told.set()

    async def run(self) -> None:
        """The rest. Until it is cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._wait is not None:
                wait, self._wait = self._wait, None
                try:
                    await wait
                except Exception as error:
                    self._fail(error)
                    break
                self._untold.popleft()
                self._tell_at_once()

    async def room(self) -> None:
        """Until there is room for more, or the tree has stopped."""
        while len(self._untold) > UNTOLD_MAX and not self._stopped():
            self._told.clear()
            await self._told.wait()

    def go_on(self) -> None:
        """The tree was stopped and goes on."""
        if self._wait is None:
            self._tell_at_once()
