"""One logical client of a history: a name that is used once, and a connection of its own.

Owns: the client library's settings under faults, the life of a `Client`, the key of its last command, and the kind
that an error ends an operation with (D-8).
Never: retries; the library does that, under one key.
Invariants: two logical clients share no `Client`, so no lane: what one left behind in a lane is never sent again once
it is closed. A copy that is on its way already may still be applied, and so its operation stays `info` for ever.
"""

from __future__ import annotations

import asyncio
import errno
import random
from dataclasses import dataclass, replace
from pathlib import Path

from chaos.records import FAIL, INFO
from chaos.seams import LoadPlan
from chaos.workloads.plan import setting, tag_of
from hypercluster.client.client import Client
from hypercluster.client.lane_types import MS_NS, LaneSettings, Settled
from hypercluster.client.settings import ClientSettings, read_settings
from hypercluster.errors import HyperClusterError, Outcome, RefusedError

# Short, so that a fault becomes an info and not a silence. Settings of the plan, in milliseconds.
NO_LEADER_MS = 2_000
DEADLINE_MS = 5_000
READ_DEADLINE_MS = 3_000
LONGEST_MS = 5_000  # a process must end within 10 s, whatever is open
CLOSE_S = 2.0
WORKERS = ("one", "two")  # as the history names the plan's two certificates


def settings_under_faults(plan: LoadPlan, client_file: str) -> ClientSettings:
    lane = LaneSettings(
        no_leader_ns=setting(plan, "no_leader_ms", NO_LEADER_MS, 1, LONGEST_MS) * MS_NS,
        deadline_ns=setting(plan, "deadline_ms", DEADLINE_MS, 1, LONGEST_MS) * MS_NS,
    )
    read_ms = setting(plan, "read_deadline_ms", READ_DEADLINE_MS, 1, LONGEST_MS)
    return replace(read_settings(Path(client_file)), lane=lane, read_deadline_s=read_ms / 1_000)


class NotDoneError(Exception):
    """An operation of several commands that certainly did nothing, and none of them said so. `code` as in D-8."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def kind_of(error: HyperClusterError | NotDoneError) -> tuple[str, str]:
    """(kind, reason code). The code of a file operation is the name of its errno."""
    if isinstance(error, NotDoneError):
        return FAIL, error.code
    kind = INFO if error.outcome is Outcome.UNKNOWN else FAIL
    if isinstance(error, RefusedError) and error.reason == "ERRNO":
        return kind, errno.errorcode.get(error.errno, f"errno {error.errno}")
    return kind, error.reason


class LastKey:
    """A journal that remembers under which key the last command went out: the op log names commands by it."""

    def __init__(self) -> None:
        self.key: tuple[str, int] | None = None

    def clear(self) -> None:
        self.key = None

    def record(
        self, kind: str, at_ns: int, client_id: bytes, seq: int, command: bytes, settled: Settled | None
    ) -> None:
        if kind == "invoke":
            self.key = (client_id.hex(), seq)


@dataclass(slots=True)
class LogicalClient:
    """`name` stands in the history; `seen_index` is the highest Raft index an answer named. `worker`: whose certificate
    it has."""

    name: str
    client: Client
    last_key: LastKey
    worker: str = WORKERS[0]
    seen_index: int = 0

    def saw(self, raft_index: int) -> None:
        self.seen_index = max(self.seen_index, raft_index)

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.client.close()
        except TimeoutError:
            pass  # its channels die with the process; its lanes were ended first


class Crew:
    """Makes logical clients and closes them all in the end."""

    def __init__(self, plan: LoadPlan, rng: random.Random) -> None:
        files = [plan.client_file, *([plan.other_client_file] if plan.other_client_file else [])]
        self._settings = [settings_under_faults(plan, client_file) for client_file in files]
        self._label = f"{plan.workload}-{tag_of(plan.seed)}"
        self._rng = rng
        self._made: dict[str, int] = {}
        self._open: dict[str, LogicalClient] = {}

    async def new(self, place: str) -> LogicalClient:
        """The next one at a place, as "register-7-w3.2" at "w3"."""
        number = self._made[place] = self._made.get(place, 0) + 1
        name = f"{self._label}-{place}.{number}"
        last_key = LastKey()
        turn = int(place[1:]) % len(self._settings) if place[1:].isdigit() else 0
        settings = self._settings[turn]
        client = Client(settings, name=name, journal=last_key, rng=random.Random(self._rng.getrandbits(64)))
        made = LogicalClient(name, await client.__aenter__(), last_key, WORKERS[turn])
        self._open[name] = made
        return made

    async def dismiss(self, who: LogicalClient) -> None:
        """Its lanes end here."""
        del self._open[who.name]
        await who.close()

    async def close(self) -> None:
        leaving, self._open = list(self._open.values()), {}
        await asyncio.gather(*(who.close() for who in leaving))
