"""Which patterns are in force on this mount, and which places they make local (WS-56).

Owns: `PatternsInForce`: the setting as this worker last heard it, kept in a file for a start without a cluster; the
questions the border asks of it.
Never: touches what is there. A new pattern decides of what is made from now on; whatever is replicated stays so, and
whatever is local stays that.
Invariants: a place is judged by its path at the time of the call, on bytes, by the code the import uses; what stands in
a directory that has no name any more is not local.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from hypercluster.client.live.ports import View
from hypercluster.client.local_patterns import LocalPatterns
from hypercluster.errors import HyperClusterError

PATTERNS_EVERY_S: Final = 5.0  # how long a new setting may take to be heard of, where nobody reads a barrier

log = logging.getLogger(__name__)


class PatternsInForce:
    """Thread-safe, but for `learn` and `follow`, which are the loop's. `fetch` asks the cluster for the setting and
    raises an error of our tree."""

    def __init__(self, path: Path, view: View, fetch: Callable[[], Awaitable[bytes]]) -> None:
        """Raises OSError."""
        self._path = path
        self._view = view
        self._fetch = fetch
        self._lock = threading.Lock()
        try:
            self._patterns = LocalPatterns(path.read_bytes())
        except FileNotFoundError:
            self._patterns = LocalPatterns()

    def __bool__(self) -> bool:
        return bool(self._patterns)

    @property
    def text(self) -> bytes:
        return self._patterns.text

    def match(self, directory: bytes, name: bytes, *, is_directory: bool) -> bool:
        """Whether what is made under this name of a replicated directory stays here."""
        if not self._patterns:
            return False
        above = self._view.path_of(directory)
        if above is None:
            return False
        path = above + b"/" + name if above else name
        with self._lock:
            return self._patterns.is_local(path, is_directory)

    async def learn(self) -> None:
        """Asks once; without an answer what is known stays in force."""
        try:
            text = await self._fetch()
        except HyperClusterError as error:
            log.info("the local patterns were not heard of, those known stay in force: %s", error)
            return
        if text == self._patterns.text:
            return
        await asyncio.to_thread(self._keep, text)
        patterns = LocalPatterns(text)
        for mistake in patterns.mistakes:
            log.warning("local patterns: line %d matches nothing: %s", mistake.line, mistake.words)
        with self._lock:
            self._patterns = patterns

    def _keep(self, text: bytes) -> None:
        fresh = self._path.with_suffix(".new")
        with open(fresh, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._path)

    async def follow(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(PATTERNS_EVERY_S)
            try:
                await self.learn()
            except OSError as error:
                log.error("the local patterns can not be kept in %s: %s", self._path, error)
