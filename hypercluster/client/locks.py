"""Locks and semaphores as context managers that expose their fencing token and lose loudly (WS-60, WS-40 to WS-47).

Owns: `Lock`: acquired, held while the body runs, released; what the body may do with it.
Never: renews (leases.py does, for all locks of the client), or keeps anything after the release.
Invariants: `token` and `guard()` raise LockLostError once the lease can not be known to hold; the body of a lost
lock is cancelled, and the `async with` raises LockLostError whatever the body did; a guarded write that comes too late
is refused by the cluster (FencedError), also where nobody here noticed.

    async with workspace.lock("config.toml", wait_s=10) as lock:
        await lock.workspace.put("config.toml", content)     # refused with FencedError once the lock is another's
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING

from hypercluster.client.file_ops import ROOT, shown
from hypercluster.client.leases import Held, boot_ns
from hypercluster.errors import FencedError, InvariantError, LockLostError, MalformedError
from hypercluster.limits import LOCK_NAME_BYTES_MAX, LOCK_PERMITS_MAX, LOCK_WAIT_MS_MAX
from hypercluster.pb.v1 import coordination_command_pb2 as lock_pb

if TYPE_CHECKING:
    from hypercluster.client.workspace import Path, Workspace

NAME_PREFIX = "name:"


class Lock:
    """Made by `Workspace.lock`, `semaphore` and `reclaim`. For one `async with`; not shared between tasks."""

    def __init__(self, workspace: Workspace, what: str, enter: Callable[[Lock], Awaitable[Held]]) -> None:
        self._workspace = workspace
        self._leases = workspace.client.leases
        self._enter = enter
        self._held: Held | None = None
        self._body: asyncio.Task[object] | None = None
        self._cancelled_body = False
        self._cancelling = 0  # what the body's task was being cancelled for before
        self.what = what
        self.target = lock_pb.LockTarget()

    # --- what the body may ask ----------------------------------------------------------------------

    @property
    def lost(self) -> bool:
        return self._held is not None and bool(self._why_lost(self._held))

    @property
    def token(self) -> int:
        """The fencing token of the grant (D-10). Raises LockLostError."""
        return self._present().token

    @property
    def lock_id(self) -> int:
        return self._present().lock_id

    @property
    def ends_ns(self) -> int:
        """Until when it can be known to hold, on CLOCK_BOOTTIME; it moves on with each renewal. 0: it is lost."""
        return self._leases.ends_ns(self._held.lock_id) if self._held is not None else 0

    def guard(self) -> lock_pb.Guard:
        """For writes that must not happen once the lock is another's. Raises LockLostError."""
        return lock_pb.Guard(target=self.target, token=self.token, history_id=self._leases.history_id)

    @property
    def workspace(self) -> Workspace:
        """The workspace, every change through which carries this lock's guard."""
        return self._workspace.guarded_by(self)

    def _present(self) -> Held:
        if self._held is None:
            raise InvariantError(f"{self.what} is used outside of its `async with`")
        if self.lost:
            raise self._lost_error()
        return self._held

    def _why_lost(self, held: Held) -> str:
        """By the clock as well: a host that wakes up, or a loop that was held up, has told nobody yet."""
        if held.lost or boot_ns() < self._leases.ends_ns(held.lock_id):
            return held.lost
        return "it was not renewed in time: this process did not run, or no leader answered"

    def _lost_error(self) -> LockLostError:
        words = self._why_lost(self._held) if self._held is not None else ""
        return LockLostError(f"{self.what} was lost: {words}. What was done under it may have met another holder")

    # --- its life -----------------------------------------------------------------------------------

    async def acquire(self) -> Lock:
        """For who can not use `async with`: nothing is cancelled then, so look at `lost`, or use `token`."""
        if self._held is not None:
            raise InvariantError(f"{self.what} is acquired already")
        self._held = await self._enter(self)
        return self

    async def release(self) -> None:
        """Raises LockLostError if it was lost before."""
        self._leases.look()
        held, lost = self._held, self.lost
        error = self._lost_error() if lost else None
        self._held = None
        if error is not None:
            raise error
        if held is not None:
            try:
                await self._leases.release(held, self.what)
            except FencedError as fenced:
                raise LockLostError(f"{self.what} was lost before it was released") from fenced

    async def __aenter__(self) -> Lock:
        await self.acquire()
        assert self._held is not None
        if self.lost:
            await self.release()
        body = self._body = asyncio.current_task()
        self._cancelling = body.cancelling() if body is not None else 0
        self._held.on_lost.append(self._on_lost)
        return self

    def _on_lost(self, _words: str) -> None:
        """Cancels the body while it waits: a task that cancels itself would meet it only after this `async with`."""
        if self._body is not None and self._body is asyncio.current_task():
            asyncio.get_running_loop().call_soon(self._cancel_body)
        else:
            self._cancel_body()

    def _cancel_body(self) -> None:
        if self._body is not None and not self._body.done():
            self._cancelled_body = self._body.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        body, self._body = self._body, None
        if self._held is not None and self._on_lost in self._held.on_lost:
            self._held.on_lost.remove(self._on_lost)
        self._leases.look()
        if not self.lost:
            try:
                await self.release()
            except LockLostError:
                if error is None:
                    raise
                error.add_note(f"{self.what} had been lost by then")
            return
        lost = self._lost_error()
        self._held = None
        left = body.uncancel() if self._cancelled_body and body is not None else 0
        if isinstance(error, asyncio.CancelledError):
            if left > self._cancelling:
                error.add_note(str(lost))
                return  # somebody else cancels the body as well
            raise lost from None
        raise lost from error


def target_words(path_or_name: Path) -> str:
    if isinstance(path_or_name, str) and path_or_name.startswith(NAME_PREFIX):
        return f"lock {path_or_name!r}"
    raw = path_or_name if isinstance(path_or_name, bytes) else path_or_name.encode("utf-8", "surrogateescape")
    return f"lock on {shown(raw) or '/'}"


async def find_target(workspace: Workspace, path_or_name: Path) -> lock_pb.LockTarget:
    """`name:` and a name that agents agreed on, or a path, which must exist. Raises RefusedError with errno ENOENT."""
    if isinstance(path_or_name, str) and path_or_name.startswith(NAME_PREFIX):
        return lock_pb.LockTarget(name=checked_name(path_or_name.removeprefix(NAME_PREFIX)))
    inode = await workspace.stat(path_or_name)
    return lock_pb.LockTarget(inode_id=inode.inode_id or ROOT)


def checked_name(name: str) -> str:
    allowed = name.isascii() and all(char.isalnum() or char in "._/:-" for char in name)
    if not (allowed and 1 <= len(name) <= LOCK_NAME_BYTES_MAX):
        raise MalformedError(f"name {name!r}: 1 to {LOCK_NAME_BYTES_MAX} of a-z, A-Z, 0-9, '.', '_', '/', ':' and '-'")
    return name


def wait_fields(wait_s: float | None) -> tuple[bool, int]:
    """(wait, wait_ms): None waits as long as the client lives, 0 not at all."""
    if wait_s is None:
        return True, 0
    if not 0 <= wait_s <= LOCK_WAIT_MS_MAX / 1000:
        raise MalformedError(f"wait_s {wait_s}: 0 to {LOCK_WAIT_MS_MAX // 1000}, or None")
    return wait_s > 0, max(1, round(wait_s * 1000)) if wait_s else 0


def checked_permits(permits: int) -> int:
    if not 1 <= permits <= LOCK_PERMITS_MAX:
        raise MalformedError(f"permits {permits}: 1 to {LOCK_PERMITS_MAX}")
    return permits
