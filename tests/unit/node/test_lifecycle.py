"""The end of a node: what is closed, and what is left alone (OPS-6, CL-4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from hypercluster.errors import DiskFailedError
from hypercluster.node.lifecycle import Fatal, Hooks, Lifecycle
from hypercluster.telemetry.metrics import Metrics
from hypercluster.values import NodeId, Role


class Ending:
    """A node that is told to stop, and the steps it took."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.fatal = Fatal()
        self.on_close: Callable[[], None] = lambda: None
        self.on_engine: Callable[[], None] = lambda: None
        status = SimpleNamespace(
            leader=None, term=1, role=Role.FOLLOWER, node_id=NodeId("n1"), membership=SimpleNamespace(voters=tuple)
        )
        engine: Any = SimpleNamespace(status=lambda: status)
        reporter: Any = SimpleNamespace(observe=lambda: status, not_ready=lambda: "")
        proposer: Any = SimpleNamespace(
            stop=lambda idle: idle(), pending_ops=0, pending_bytes=0, held_bytes=0, admitted_ops=0
        )
        maintenance: Any = SimpleNamespace(look=lambda: None)

        async def serving(_: bool) -> None: ...

        async def servers(_: float) -> None:
            self.steps.append("servers")

        async def close_engine() -> None:
            self.steps.append("engine")
            self.on_engine()

        def directory() -> None:
            self.steps.append("directory")
            self.on_close()

        hooks = Hooks(serving, servers, close_engine, directory)
        self.lifecycle = Lifecycle(engine, proposer, reporter, maintenance, Metrics(), self.fatal, hooks)

    async def stop(self) -> BaseException | None:
        told = asyncio.Event()
        told.set()
        return await self.lifecycle.run(told)


@pytest.mark.req("OPS-6")
async def test_a_graceful_stop_closes_the_directory_last() -> None:
    ending = Ending()
    assert await ending.stop() is None
    assert ending.steps == ["servers", "engine", "directory"]


@pytest.mark.req("CL-4", "OPS-6")
async def test_nothing_is_flushed_after_a_fatal_error_on_the_way_down() -> None:
    """The binding flushes what is left when the state is closed, also what names chunks whose sync failed."""
    ending = Ending()
    error = DiskFailedError("syncing the chunk store failed")
    ending.on_engine = lambda: ending.fatal(error)
    assert await ending.stop() is error
    assert ending.steps == ["servers", "engine"]


@pytest.mark.req("CL-4", "OPS-6")
async def test_a_directory_that_can_not_be_closed_is_a_fatal_error() -> None:
    ending = Ending()
    error = DiskFailedError("the last flush failed")

    def fails() -> None:
        raise error

    ending.on_close = fails
    assert await ending.stop() is error
