"""A follower is taken out of the cluster under load, and comes back as a new member.

Owns: the nemesis member-replaced.
Never: takes a step other than by the commands an operator has, run where the clients are.
Invariants: the follower that leaves is stopped only after the others have agreed that it is no member; `heal` may be
asked at any moment and goes on where it is; `probe` is '' only when the members that a leader names are the nodes of
the cluster, all of them voters and connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from typing import Any

from chaos.nemeses.processes import not_well
from chaos.seams import ClusterUnderTest

COMMAND_S = 40.0
REMOVE_S = 30.0
PAUSE_S = 0.2
LEADER_S = 10.0


class CommandError(RuntimeError):
    """A command of the product failed; its words."""


class MemberReplaced:
    name = "member-replaced"
    needs: frozenset[str] = frozenset()
    # A change of members needs a majority of the configured number within reach, at each step.
    excludes = frozenset({"processes", "network", "disks", "clocks", "members"})

    def __init__(self) -> None:
        self._victim = ""

    async def begin(self, cluster: ClusterUnderTest, rng: random.Random) -> str:
        leader = await cluster.leader(LEADER_S)
        victim = rng.choice([node for node in cluster.nodes if node != leader])
        self._victim = victim
        # One that is removed while it runs may end by itself.
        cluster.expect_exit(victim)
        await _again(REMOVE_S, cluster, "member", "remove", victim, "--json", "--config", str(cluster.client_file))
        cluster.kill(victim)
        return f"{victim} is no member any more"

    async def heal(self, cluster: ClusterUnderTest) -> None:
        """The victim is a member again, with a new directory, and runs."""
        victim = self._victim
        if not victim:
            return
        if await self._not_a_member(cluster):
            cluster.kill(victim)
            config = cluster.client_file.parent / victim / "node.toml"
            client = str(cluster.client_file)
            await _again(REMOVE_S, cluster, "node", "rejoin", "--json", "--config", str(config), "--client", client)
        cluster.start(victim)

    async def _not_a_member(self, cluster: ClusterUnderTest) -> bool:
        return self._victim not in {member["node"] for member in await _members(cluster)}

    async def probe(self, cluster: ClusterUnderTest) -> str:
        if wrong := await not_well(cluster, cluster.nodes):
            return wrong
        try:
            members = {member["node"]: member for member in await _members(cluster)}
        except CommandError as error:
            return str(error)
        if set(members) != set(cluster.nodes):
            return f"the members are {', '.join(sorted(members))}"
        voters = {name for name, member in members.items() if member["suffrage"] == "voter"}
        if voters != set(cluster.nodes):
            return f"no voters yet: {', '.join(sorted(set(members) - voters))}"
        away = [name for name, member in members.items() if not member["connected"]]
        return f"not connected: {', '.join(away)}" if away else ""


async def _members(cluster: ClusterUnderTest) -> list[dict[str, Any]]:
    said = await _again(REMOVE_S, cluster, "member", "list", "--json", "--config", str(cluster.client_file))
    members: list[dict[str, Any]] = json.loads(said)["members"]
    return members


async def _again(deadline_s: float, cluster: ClusterUnderTest, *arguments: str) -> str:
    """A command of the product, until it succeeds: each asks for a state, so that asking again is harmless."""
    end_s = time.monotonic() + deadline_s
    while True:
        try:
            return await _command(cluster, *arguments)
        except CommandError:
            if time.monotonic() > end_s:
                raise
        await asyncio.sleep(PAUSE_S)


async def _command(cluster: ClusterUnderTest, *arguments: str) -> str:
    """What it printed. Raises CommandError."""
    process = await asyncio.create_subprocess_exec(
        *cluster.client_prefix,
        sys.executable,
        "-m",
        "hypercluster.cli.main",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(COMMAND_S):
            said, complaint = await process.communicate()
    except TimeoutError:
        raise CommandError(f"{' '.join(arguments[:2])}: no end within {COMMAND_S:.0f} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode != 0:
        words = complaint.decode(errors="replace").strip()[-500:]
        raise CommandError(f"{' '.join(arguments[:2])}: status {process.returncode}: {words}")
    return said.decode()
