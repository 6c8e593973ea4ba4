"""`hypercluster cluster`: found a cluster, hand leadership over.

Owns: the two commands. Never: starts a node.
"""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import click
import grpc

from hypercluster.cli.client_command import json_option, print_json
from hypercluster.cli.connection import connection_options
from hypercluster.cli.founding import CLIENT_FILE, NodePlan, found_cluster
from hypercluster.cli.probing import refuse_where_a_cluster_answers
from hypercluster.client.answers import from_rpc
from hypercluster.client.nodes import Nodes
from hypercluster.client.settings import ClientSettings
from hypercluster.client.stubs import cluster_service
from hypercluster.errors import MalformedError, NoQuorumError
from hypercluster.pb.v1 import cluster_pb2

_NODE = re.compile(
    r"(?P<name>[a-z0-9-]+)=(?P<host>\[[0-9a-fA-F:.]+\]|[^:]+)"
    r"(?::(?P<client>\d+)(?::(?P<peer>\d+)(?::(?P<admin>\d+))?)?)?"
)


@click.group()
def cluster() -> None:
    """Found a new cluster; hand leadership over."""


@cluster.command()
@click.option(
    "--node",
    "nodes",
    multiple=True,
    required=True,
    metavar="NAME=HOST[:CLIENT[:PEER[:ADMIN]]]",
    help="One founding node: 3, 5 or 7 times (once for development). Ports default to 7801, 7802, 7803.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new directory to write to.")
@click.option("--client-name", default="operator", show_default=True, help="Whom the client certificate names.")
def init(nodes: tuple[str, ...], out: Path, client_name: str) -> None:
    """Write everything a new cluster needs: identities, certificates, configuration.

    Refused where a node of some cluster answers at one of the addresses already.

    Afterwards copy OUT/NODE to the host of each node and run `hypercluster serve --config node.toml` there. Keep
    OUT/ca.key in a safe place: whoever has it can make certificates for this cluster.
    """
    plans = [_plan(text) for text in nodes]
    refuse_where_a_cluster_answers(plans)
    cluster_id = found_cluster(out, plans, client_name=client_name)
    click.echo(f"cluster {cluster_id.hex()} · {len(plans)} node{'s' if len(plans) != 1 else ''} · written to {out}")
    for plan in plans:
        click.echo(
            f"  {plan.name}  {plan.client_address()}  hypercluster serve --config {out / plan.name / 'node.toml'}"
        )
    click.echo(f"  clients: --config {out / CLIENT_FILE}")


def _plan(text: str) -> NodePlan:
    found = _NODE.fullmatch(text)
    if found is None:
        raise MalformedError(f"--node {text!r}: expected NAME=HOST[:CLIENT[:PEER[:ADMIN]]], like n1=10.0.0.1")
    client_port = int(found["client"] or 7801)
    peer_port = int(found["peer"] or client_port + 1)
    admin_port = int(found["admin"] or peer_port + 1)
    return NodePlan(found["name"], found["host"].strip("[]"), client_port, peer_port, admin_port)


@cluster.command("transfer-leader")
@click.option("--to", default="", metavar="NODE", help="Name of a voter; without it the most caught-up one.")
@json_option
@connection_options
def transfer_leader(to: str, as_json: bool, settings: ClientSettings) -> None:
    """Hand leadership to another node, for instance before a reboot."""
    answer = asyncio.run(_transfer(settings, to))
    if as_json:
        print_json({"leader": answer.leader, "term": answer.term})
    else:
        click.echo(f"{answer.leader} leads in term {answer.term}")


async def _transfer(settings: ClientSettings, to: str) -> cluster_pb2.TransferLeaderResponse:
    """Asked once: a transfer that timed out may still happen, and a second one would move leadership again."""
    nodes = Nodes(settings, random.Random())
    try:
        address, _ = await nodes.find_leader()
        if not address:
            raise NoQuorumError(nodes.no_leader_words(settings.probe_timeout_s))
        stub = cluster_service(nodes.channel(address))
        answer: cluster_pb2.TransferLeaderResponse = await stub.TransferLeader(
            cluster_pb2.TransferLeaderRequest(to=to), timeout=10
        )
        return answer
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error, "transfer-leader") from error
    finally:
        await nodes.close()
