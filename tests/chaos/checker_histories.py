"""Hand-written and drawn histories for the tests of the checkers.

`Book` writes one by hand, with moments in milliseconds; `draw_register` simulates a register with concurrent clients,
so that what it returns is linearizable by the way it was made.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chaos.checkers.operations import Operation, join
from chaos.records import FAIL, INFO, INVOKE, OK, Event
from chaos.seams import Finished

MS = 1_000_000


@dataclass
class Book:
    """Every operation of it is by a process of its own unless one is named."""

    workload: str = "register"
    key: str = "r0-1"
    events: list[Event] = field(default_factory=list)

    def note(
        self,
        op: str,
        called_ms: int,
        returned_ms: int,
        asked: Any = None,
        result: Any = None,
        *,
        kind: str = OK,
        error: str = "",
        process: str = "",
        key: str | None = None,
        level: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> Book:
        """`kind` "" leaves the operation open."""
        process = process or f"p{len(self.events)}"
        begun = Event(
            called_ms * MS, process, INVOKE, self.workload, op, self.key if key is None else key, asked, level
        )
        self.events.append(begun)
        if kind:
            ended = replace(begun, at_ns=returned_ms * MS, kind=kind, value=result, error=error, extra=extra or {})
            self.events.append(ended)
        return self

    def write(self, called: int, returned: int, value: int, version: int | None = None, **more: Any) -> Book:
        return self.note("write", called, returned, value, extra=_told(version, more), **more)

    def read(self, called: int, returned: int, value: int | None, version: int | None = None, **more: Any) -> Book:
        return self.note("read", called, returned, None, value, extra=_told(version, more), **more)

    def cas(
        self, called: int, returned: int, expected: int, value: int, version: int | None = None, **more: Any
    ) -> Book:
        return self.note("cas", called, returned, [expected, value], extra=_told(version, more), **more)

    def sorted(self) -> list[Event]:
        return sorted(self.events, key=lambda event: event.at_ns)

    def operations(self) -> list[Operation]:
        return join(self.sorted())

    def run(self, final: Mapping[str, Any] | None = None, budget_s: float = 20.0) -> Finished:
        return Finished(self.sorted(), final or {}, Path("/nonexistent"), budget_s)


def _told(version: int | None, more: dict[str, Any]) -> dict[str, Any]:
    extra = dict(more.pop("extra", {}))
    return extra | ({} if version is None else {"version": version})


@dataclass
class _Client:
    process: str
    called_at: int = 0
    acts_at: int = -1
    returns_at: int = 0
    op: str = ""
    asked: Any = None
    result: Any = None
    version: int = 0
    refused: bool = False
    lost: bool = False  # its answer never arrives


def draw_register(
    rng: random.Random,
    operations: int,
    clients: int,
    *,
    lost: float = 0.1,
    versions: bool = True,
    longest: int = 12,
    values: int = 0,
) -> list[Event]:
    """With `values`, so many different ones are written, else each once.

    Every operation takes effect at one moment between call and return; lost ones at any later one, or never."""
    world = _World(rng, versions, lost, longest, values)
    active = [_Client(f"c{n}") for n in range(clients)]
    for client in active:
        world.call(client, rng.randrange(longest))
    names, moment = clients, 0
    while world.called < operations or world.open:
        for client in sorted(world.open, key=lambda _: rng.random()):
            if client.acts_at == moment:
                world.act(client)
        for client in list(world.open):
            if client.returns_at == moment:
                world.finish(client)
                names += client.lost
                if world.called < operations:
                    heir = _Client(f"c{names - 1}") if client.lost else client
                    world.call(heir, moment + 1 + rng.randrange(3))
        moment += 1
        world.late(moment)
    return sorted(world.events, key=lambda event: (event.at_ns, event.kind != INVOKE))


class _World:
    def __init__(self, rng: random.Random, versions: bool, lost: float, longest: int, values: int) -> None:
        self.rng, self.versions, self.lost, self.longest, self.values = rng, versions, lost, longest, values
        self.events: list[Event] = []
        self.open: list[_Client] = []
        self.after_all: list[_Client] = []  # lost ones that act later than their client gave up
        self.value: int | None = None
        self.version = self.sequence = self.called = 0
        self.known_version = 0

    def call(self, client: _Client, at: int) -> None:
        rng = self.rng
        self.called += 1
        client.called_at, client.result, client.refused = at, None, False
        client.lost = rng.random() < self.lost
        client.returns_at = at + 1 + rng.randrange(self.longest)
        client.acts_at = rng.randrange(at, client.returns_at)
        if client.lost and rng.random() < 0.6:
            client.acts_at = -1 if rng.random() < 0.5 else client.returns_at + rng.randrange(3 * self.longest)
        client.op = rng.choice(["read", "read", "write", "cas"] if self.versions else ["read", "write"])
        expected = self.known_version if rng.random() < 0.8 else rng.randrange(self.sequence + 2)
        value = rng.randrange(self.values) if self.values else self.called
        client.asked = {"read": None, "write": value, "cas": [expected, value]}[client.op]
        self.events.append(
            Event(at * MS, client.process, INVOKE, "register", client.op, "r", client.asked, _level(client))
        )
        self.open.append(client)

    def act(self, client: _Client) -> None:
        if client.op == "read":
            client.result, client.version = self.value, self.version
            self.known_version = self.version
            return
        self.sequence += self.rng.randrange(1, 3)
        if client.op == "cas" and client.asked[0] != self.version:
            client.refused = True
            return
        self.value = client.asked[1] if client.op == "cas" else client.asked
        self.version = client.version = self.sequence

    def finish(self, client: _Client) -> None:
        self.open.remove(client)
        if client.acts_at > client.returns_at - 1 and client.lost:
            self.after_all.append(replace(client))
        kind = INFO if client.lost else FAIL if client.refused else OK
        error = {"info": "DEADLINE", "fail": "PRECONDITION_FAILED", "ok": ""}[kind]
        extra = {"version": client.version} if kind == OK and self.versions else {}
        value = client.result if kind == OK else None
        self.events.append(
            Event(
                client.returns_at * MS,
                client.process,
                kind,
                "register",
                client.op,
                "r",
                value,
                _level(client),
                error,
                extra,
            )
        )

    def late(self, moment: int) -> None:
        for client in list(self.after_all):
            if client.acts_at <= moment:
                self.act(client)
                self.after_all.remove(client)


def _level(client: _Client) -> str:
    return "linearizable" if client.op == "read" else ""
