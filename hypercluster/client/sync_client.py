"""The library without asyncio: a `Client` that runs on a loop of its own in a thread (WS-60).

Owns: the thread and its loop.
Never: logic of its own; every method is the asynchronous one, waited for.
Invariants: calls may come from any thread; after `close` nothing of it is left running. Not usable after fork: open a
new one in the child.

    with SyncClient(settings) as client:
        client.hub.set("metadata", b"greeting", b'"hello"')
        demo = client.open_workspace("demo")
        demo.put("notes.txt", b"...")
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from hypercluster.client.client import Client
from hypercluster.client.lane_types import Journal
from hypercluster.client.locks import Lock
from hypercluster.client.settings import ClientSettings
from hypercluster.client.workspace import Path, Workspace
from hypercluster.errors import LockLostError, check
from hypercluster.pb.v1.coordination_command_pb2 import Guard
from hypercluster.pb.v1.coordination_pb2 import LockRecord

T = TypeVar("T")


class _Face:
    """Any object of the library: its coroutines are waited for, its async iterators become lists."""

    def __init__(self, client: SyncClient, target: object) -> None:
        self._client = client
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return found

        def called(*args: Any, **kwargs: Any) -> Any:
            return self._client.wait(_settled(found(*args, **kwargs)))

        called.__doc__ = found.__doc__
        called.__name__ = name
        return called


async def _settled(result: Any) -> Any:
    if inspect.isawaitable(result):
        return await result
    if hasattr(result, "__aiter__"):
        return [item async for item in result]
    return result


class SyncClient:
    """Use it as a context manager."""

    def __init__(self, settings: ClientSettings, *, name: str = "", journal: Journal | None = None) -> None:
        self._settings = settings
        self._name = name
        self._journal = journal
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hypercluster-client", daemon=True)
        self._client: Client | None = None
        self.hub = _Face(self, _Later(self, "hub"))

    def __enter__(self) -> SyncClient:
        self._thread.start()

        async def start() -> Client:
            client = Client(self._settings, name=self._name, journal=self._journal)
            return await client.__aenter__()

        self._client = self.wait(start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._client is not None:
            client, self._client = self._client, None
            self.wait(client.close())
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        if not self._loop.is_closed():
            self._loop.close()

    @property
    def client(self) -> Client:
        check(self._client is not None, "the client is open")
        assert self._client is not None
        return self._client

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the client's loop. Who is interrupted meanwhile ends it: a lock that nobody waits
        for any more must not be granted."""
        check(os.getpid() == self._pid, "a client does not survive fork: open one in the child (WS-10)")
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def status(self) -> dict[str, Any]:
        return dict(self.wait(self.client.status()))

    def open_workspace(self, name: str) -> SyncWorkspace:
        return SyncWorkspace(self, self.wait(self.client.open_workspace(name)))

    def create_workspace(self, name: str, **options: Any) -> SyncWorkspace:
        return SyncWorkspace(self, self.wait(self.client.create_workspace(name, **options)))


class SyncWorkspace(_Face):
    """Every method of `Workspace`. `readdir`, `walk`, `get` and `log` return lists."""

    def __init__(self, client: SyncClient, workspace: Workspace) -> None:
        super().__init__(client, workspace)
        self.ops = _Face(client, workspace.ops)
        self._workspace = workspace

    def lock(self, path_or_name: Path, **options: Any) -> SyncLock:
        """See Workspace.lock."""
        return SyncLock(self._client, self._workspace.lock(path_or_name, **options))

    def semaphore(self, name: str, permits: int, **options: Any) -> SyncLock:
        return SyncLock(self._client, self._workspace.semaphore(name, permits, **options))

    def reclaim(self, record: LockRecord) -> SyncLock:
        return SyncLock(self._client, self._workspace.reclaim(record))


class SyncLock:
    """A lock without asyncio. The body runs in the caller's thread, which nobody can cancel: `token`, `guard()` and
    writes through `workspace` raise LockLostError or FencedError once it is lost, and so does the end of the `with`."""

    def __init__(self, client: SyncClient, lock: Lock) -> None:
        self._client = client
        self._lock = lock

    def __enter__(self) -> SyncLock:
        self._client.wait(self._lock.acquire())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._client.wait(self._lock.release())
        except LockLostError as lost:
            if error is None:
                raise
            error.add_note(str(lost))

    @property
    def lost(self) -> bool:
        return self._lock.lost

    @property
    def token(self) -> int:
        return self._lock.token

    @property
    def lock_id(self) -> int:
        return self._lock.lock_id

    def guard(self) -> Guard:
        return self._lock.guard()

    @property
    def workspace(self) -> SyncWorkspace:
        """The workspace, every change through which carries this lock's guard."""
        return SyncWorkspace(self._client, self._lock.workspace)


class _Later:
    """An attribute of a client that is opened after this is made."""

    def __init__(self, owner: SyncClient, name: str) -> None:
        self._owner = owner
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(self._owner.client, self._name), name)
