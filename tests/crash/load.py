"""Clients that write without pause, so that there is always something in flight when the plug is pulled.

Owns: `Load`, some clients of the library in this process. Each appends tokens to a file of its own and to one that all
share, makes files (small, and of chunks), sets hub keys, and counts a shared chain of keys up by compare-and-set.
Never: judges; it keeps journals (JSON lines, one a client), which the checker reads.
Invariants: no two commands have the same content; a value of the chain names the version it was put on top of, so that
the chain can be checked by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

from hypercluster.client.client import Client
from hypercluster.client.journal import FileJournal
from hypercluster.client.lane_types import S_NS, LaneSettings, Settled
from hypercluster.client.settings import ClientSettings
from hypercluster.client.workspace import Workspace
from hypercluster.errors import HyperClusterError, RefusedError

WORKSPACE = "crash"
SHARED_FILE = "shared"
CHAIN_VALUES = 60  # values a key of the chain gets before the next key is taken
KEY_VALUES = 60  # the same for the keys of one client
PIPELINED = 4  # appends in flight at a time
HUB_LANE, CHAIN_LANE = 6, 7
AFTER_ERROR_S = 0.05


class CountingJournal(FileJournal):
    """Also knows how many commands were acknowledged so far."""

    def __init__(self, lines: IO[str], process: str) -> None:
        super().__init__(lines, process)
        self.acknowledged = 0

    def record(
        self, kind: str, at_ns: int, client_id: bytes, seq: int, command: bytes, settled: Settled | None
    ) -> None:
        super().record(kind, at_ns, client_id, seq, command, settled)
        self.acknowledged += kind == "ok"


class Load:
    def __init__(self, settings: ClientSettings, directory: Path, seed: int, clients: int = 4) -> None:
        lane = LaneSettings(no_leader_ns=120 * S_NS, deadline_ns=180 * S_NS)
        self.settings = replace(settings, lane=lane, read_deadline_s=120.0)
        self.directory = directory
        self.workspace_id = b""
        self._seed = seed
        self._names = [f"c{number}" for number in range(clients)]
        self._journals: dict[str, CountingJournal] = {}
        self._open = contextlib.AsyncExitStack()
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def acknowledged(self) -> int:
        return sum(journal.acknowledged for journal in self._journals.values())

    @property
    def journals(self) -> list[Path]:
        return [self._path(name) for name in self._journals]

    async def client(self, name: str) -> Client:
        """With a journal of its own; closed at the end of the load."""
        lines = self._open.enter_context(self._path(name).open("w", encoding="utf-8"))
        journal = self._journals[name] = CountingJournal(lines, name)
        return await self._open.enter_async_context(Client(self.settings, name=name, journal=journal))

    async def start(self) -> None:
        first = await self.client("first")
        workspace = await first.create_workspace(WORKSPACE)
        self.workspace_id = workspace.workspace_id
        shared = (await workspace.ops.create(bytes(16), SHARED_FILE.encode())).inode_id
        for number, name in enumerate(self._names):
            client = await self.client(name)
            rng = random.Random(self._seed * 100 + number)
            writes = _Writes(name, client, Workspace(client, self.workspace_id, WORKSPACE), shared, rng)
            self._tasks += [asyncio.create_task(self._repeat(step)) for step in writes.steps()]

    async def stop(self, limit_s: float) -> None:
        """Lets what is in flight end, for `limit_s` at most; what has not ended by then stays open in the journal."""
        self._stopping.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=limit_s)
            for task in late:
                task.cancel()
            outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks = []
            await self._open.aclose()
            for outcome in outcomes:
                if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                    raise outcome
        await self._open.aclose()

    def check_alive(self) -> None:
        """A task of the load never ends by itself; if one has, its error is the reason to stop."""
        for task in self._tasks:
            if task.done():
                task.result()
                raise AssertionError("a client stopped writing")

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.jsonl"

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping.is_set():
            try:
                await step()
            except HyperClusterError:
                await asyncio.sleep(AFTER_ERROR_S)  # the journal has it; a client that is refused does not storm


class _Writes:
    """What one client does. Each step is run again and again, beside the others."""

    def __init__(self, name: str, client: Client, workspace: Workspace, shared: bytes, rng: random.Random) -> None:
        self.name = name
        self._client = client
        self._ops = workspace.ops
        self._shared = shared
        self._own = b""
        self._rng = rng
        self._count = 0
        self._chain_key = 0

    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        return [self.append, self.make_files, self.set_keys, self.count_up]

    def _token(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count:07d}"

    async def append(self) -> None:
        if not self._own:
            self._own = (await self._ops.create(bytes(16), f"{self.name}-own-{self._token()}".encode())).inode_id
        waits = []
        for number in range(PIPELINED):
            inode_id = self._shared if number % 2 else self._own
            padding = "." * self._rng.randrange(200)
            waits.append(asyncio.ensure_future(self._ops.append(inode_id, f"{self._token()}{padding}\n".encode())))
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def make_files(self) -> None:
        token = self._token()
        made = await self._ops.create(bytes(16), f"{self.name}-file-{token}".encode(), exclusive=True)
        size_bytes = self._rng.choice((100, 9_000, 150_000))
        content = self._rng.randbytes(size_bytes)  # chunks of its own: nothing is shared
        await self._ops.write(made.inode_id, token.encode() + content)

    async def set_keys(self) -> None:
        token = self._token()
        key = f"{self.name}/{self._count // KEY_VALUES}"
        await self._client.hub.set("metadata", key.encode(), json.dumps(token).encode(), lane=HUB_LANE)

    async def count_up(self) -> None:
        """One more on top of what is there, unless somebody was quicker."""
        key = f"chain/{self._chain_key:05d}".encode()
        present = await self._client.hub.get("settings", key)
        number = json.loads(present.payload)["number"] if present.found else 0
        if number >= CHAIN_VALUES:
            self._chain_key += 1
            return
        value = json.dumps({"number": number + 1, "upon": present.version, "token": self._token()})
        with contextlib.suppress(RefusedError):
            await self._client.hub.set(
                "settings", key, value.encode(), expected_version=present.version, lane=CHAIN_LANE
            )
