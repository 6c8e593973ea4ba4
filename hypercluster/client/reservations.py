"""A reservation as a context manager: what is written through it says that it was announced (WS-45).

Owns: `Reservation`: made, renewed in time, ended; the ids its writes carry.
Never: makes anybody wait. A reservation is advice; where the workspace enforces it, others' writes get EACCES.
Invariants: before a write or an upload starts, a reservation that would end within RENEW_WITHIN_S is renewed; one that
could not be kept is left out of what follows, which the cluster then judges as unreserved.

    async with workspace.reservation("src/**", ttl_s=300) as reserved:
        await reserved.workspace.put("src/a.c", content)
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from hypercluster.client.leases import boot_ns
from hypercluster.errors import HyperClusterError, RefusedError

if TYPE_CHECKING:
    from hypercluster.client.workspace import Path, Workspace

RENEW_WITHIN_S = 30.0


class Reservation:
    """Made by `Workspace.reservation`. For one `async with`."""

    def __init__(self, workspace: Workspace, pattern: Path, ttl_s: float, exclusive: bool) -> None:
        self._workspace = workspace
        self._pattern = pattern
        self._ttl_s = ttl_s
        self._exclusive = exclusive
        self._ends_ns = 0  # by boot_ns, counted from when it was asked for
        self.reservation_id = 0

    @property
    def workspace(self) -> Workspace:
        """The workspace, every change through which carries this reservation."""
        return self._workspace.reserved_by(self)

    async def __aenter__(self) -> Reservation:
        await self._reserve()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended, self.reservation_id = self.reservation_id, 0
        try:
            if ended:
                await self._workspace.unreserve(ended)
        except HyperClusterError:
            return  # it ends by itself

    async def current(self) -> list[int]:
        """The ids that a write which starts now may name; renewed first if it would end soon."""
        if not self.reservation_id:
            return []
        if boot_ns() >= self._ends_ns - round(min(RENEW_WITHIN_S, self._ttl_s / 2) * 1e9):
            try:
                await self._reserve()
            except RefusedError:
                self.reservation_id = 0  # it is gone, or another has reserved the same meanwhile
                return []
        return [self.reservation_id]

    async def _reserve(self) -> None:
        asked_ns = boot_ns()
        self.reservation_id = await self._workspace.reserve(
            self._pattern, ttl_s=self._ttl_s, exclusive=self._exclusive, reservation_id=self.reservation_id
        )
        self._ends_ns = asked_ns + round(self._ttl_s * 1e9)
