"""`hypercluster member`: who is in the cluster, and the single steps by which that changes (QUO-1).

Owns: the commands, their table and their JSON.
Never: takes two steps in one command; the way back of a lost node is `hypercluster node rejoin`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import click

from hypercluster.cli.client_command import json_option, print_json, print_table
from hypercluster.cli.connection import connection_options
from hypercluster.cli.words import count
from hypercluster.client import members as calls
from hypercluster.client.nodes import Nodes
from hypercluster.client.settings import ClientSettings
from hypercluster.errors import NotFoundError
from hypercluster.pb.v1.cluster_pb2 import MembersResponse

INCARNATION_DIGITS = 32


@click.group()
def member() -> None:
    """Show and change who is in the cluster, one step at a time.

    Only clients named in access.admins of the nodes' configuration may change the members.
    """


@member.command("list")
@json_option
@connection_options
def list_members(as_json: bool, settings: ClientSettings) -> None:
    """Show the members, as a leader has them that a majority confirmed."""
    _show(_run(settings, calls.members), as_json)


@member.command()
@click.argument("name")
@click.option("--incarnation", required=True, metavar="HEX", help="Of the node's data directory: 32 digits.")
@click.option("--address", required=True, metavar="HOST:PORT", help="Of the node's peer listener.")
@click.option("--promote", is_flag=True, help="Make it a voter by itself once it has caught up.")
@json_option
@connection_options
def add(name: str, incarnation: str, address: str, promote: bool, as_json: bool, settings: ClientSettings) -> None:
    """Add NAME as a learner: it replicates and does not vote.

    `hypercluster node rejoin`, on the node's host, makes the directory and does this step by itself.
    """
    life = _incarnation(incarnation)
    _show(_run(settings, lambda nodes: calls.add_member(nodes, name, life, address, promote=promote)), as_json)


@member.command()
@click.argument("name")
@json_option
@connection_options
def promote(name: str, as_json: bool, settings: ClientSettings) -> None:
    """Make the learner NAME a voter. Refused until it has caught up."""
    _show(_run(settings, lambda nodes: _of_present(nodes, name, calls.promote_member)), as_json)


@member.command()
@click.argument("name")
@json_option
@connection_options
def remove(name: str, as_json: bool, settings: ClientSettings) -> None:
    """Take NAME out of the cluster, reachable or not.

    Refused where the voters that stay and can be reached would be no majority, or fewer than half of the configured
    number and one more.
    """
    _show(_run(settings, lambda nodes: _of_present(nodes, name, calls.remove_member)), as_json)


async def _of_present(
    nodes: Nodes, name: str, step: Callable[[Nodes, str, bytes], Awaitable[MembersResponse]]
) -> MembersResponse:
    """The step on the incarnation that is a member now."""
    now = await calls.members(nodes)
    found = calls.find(now, name)
    if found is None:
        names = ", ".join(m.node_id for m in now.members)
        raise NotFoundError(f"{name} is no member; the members are {names}")
    return await step(nodes, name, found.incarnation)


def _run(settings: ClientSettings, work: Callable[[Nodes], Awaitable[MembersResponse]]) -> MembersResponse:
    async def body() -> MembersResponse:
        nodes = Nodes(settings, random.Random())
        try:
            return await work(nodes)
        finally:
            await nodes.close()

    return asyncio.run(body())


def _incarnation(text: str) -> bytes:
    if len(text) == INCARNATION_DIGITS:
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
    raise click.UsageError(f"--incarnation {text!r}: expected {INCARNATION_DIGITS} hexadecimal digits")


def _show(found: MembersResponse, as_json: bool) -> None:
    if as_json:
        print_json(as_dict(found))
        return
    voters = sum(1 for one in found.members if one.suffrage == "voter")
    learners = len(found.members) - voters
    head = [f"{voters} voters (configured {found.configured_voters})", f"{found.quorum} make a majority"]
    head += [f"{learners} learner{'s' if learners != 1 else ''}"] if learners else []
    click.echo("   ".join([*head, f"leader {found.leader}", f"configuration of entry {count(found.index)}"]))
    rows = [
        (
            one.node_id,
            "learner, to be promoted" if one.promote else one.suffrage,
            one.peer_address,
            one.incarnation.hex(),
            count(one.match_index),
            "connected" if one.connected else f"NOT CONNECTED{': ' + one.problem if one.problem else ''}",
        )
        for one in found.members
    ]
    print_table(("NODE", "IS", "PEER ADDRESS", "INCARNATION", "MATCH", "STATE"), rows)


def as_dict(found: MembersResponse) -> dict[str, Any]:
    return {
        "index": found.index,
        "configured_voters": found.configured_voters,
        "quorum": found.quorum,
        "leader": found.leader,
        "cluster_id": found.cluster_id.hex(),
        "members": [
            {
                "node": one.node_id,
                "suffrage": one.suffrage,
                "promote": one.promote,
                "incarnation": one.incarnation.hex(),
                "peer_address": one.peer_address,
                "client_address": one.client_address,
                "connected": one.connected,
                "match_index": one.match_index,
                "problem": one.problem,
            }
            for one in found.members
        ],
        "quarantined": [
            {"index": one.index, "ordinal": one.ordinal if one.HasField("ordinal") else None}
            for one in found.quarantined
        ],
    }
