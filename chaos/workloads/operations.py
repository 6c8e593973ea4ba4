"""The words between a workload and what runs it: an operation to do, and its answer.

Owns: `Operation`, `Answer`, `Script`, and `Bench`, what a script is given to prepare with.
Never: I/O of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from chaos.seams import LoadPlan
from chaos.workloads.logical import LogicalClient


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation that was done came back with."""

    value: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """One invoke and its end. `run` raises what the library raises, or NotDoneError."""

    op: str
    key: str
    run: Callable[[LogicalClient], Awaitable[Answer]]
    value: Any = None
    level: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)  # of the invoke


class StoppedError(Exception):
    """The process is to end, before it has begun."""


class Bench(Protocol):
    """What a script prepares with."""

    plan: LoadPlan
    rng: random.Random
    stop: asyncio.Event

    async def until_done(self, what: Callable[[LogicalClient], Awaitable[None]]) -> None:
        """Not in the history. Again and again, each time after an unknown outcome with a new client. Raises
        StoppedError."""

    async def perform_until(self, operation: Operation, done: Callable[[str, str], bool]) -> None:
        """In the history, until `done(kind, error)`. Raises StoppedError."""


class Script(Protocol):
    """One workload. Shared by all workers of a process, which run in one loop."""

    async def prepare(self, bench: Bench) -> None: ...

    async def draw(self, who: LogicalClient, turn: int) -> Operation | None:
        """What `who` does in this turn, None for nothing. Workers of one turn are concurrent."""
