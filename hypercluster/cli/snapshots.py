"""`hypercluster workspace snapshot list|take|verify`: workspace snapshots (WS-53, WS-61).

Owns: the commands and their words. Never: decides what is kept; the leader's schedule and the settings do.
"""

from __future__ import annotations

import asyncio

import click

from hypercluster.cli.client_command import json_option, print_json, print_table, run_client
from hypercluster.cli.client_command import timeout_option as timeout
from hypercluster.cli.connection import connection_options
from hypercluster.cli.words import count, instant, size
from hypercluster.client.client import Client
from hypercluster.client.settings import ClientSettings
from hypercluster.client.snapshots import SnapshotCheck, list_snapshots, node_manifest, take_snapshot, verify_snapshot
from hypercluster.errors import HyperClusterError, NotFoundError
from hypercluster.pb.v1 import workspace_pb2

EXIT_UNSOUND = 1
HELD_POLL_S = 0.2


@click.group("snapshot")
def snapshot() -> None:
    """List, take and verify snapshots of a workspace."""


@snapshot.command("list")
@click.argument("name")
@json_option
@timeout
@connection_options
def list_command(name: str, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> None:
    """Show the snapshots that are kept, and what is kept of the log and of chunks."""

    async def work(client: Client) -> workspace_pb2.ListSnapshotsResponse:
        return await list_snapshots(await client.open_workspace(name))

    answer = run_client(settings, work, timeout_s)
    rows = [
        {
            "log_index": found.log_index,
            "root": found.root.hex(),
            "committed_at": instant(found.committed_at_ns),
            "pages": found.page_count,
            "bytes": found.bytes_total,
        }
        for found in answer.snapshots
    ]
    if as_json:
        print_json({"node": answer.state.node_id, "snapshots": rows, "retention": _retention(answer.retention)})
        return
    table = [
        [
            count(found.log_index),
            found.root.hex()[:12] + "…",
            instant(found.committed_at_ns),
            size(found.bytes_total) if found.page_count else f"not on {answer.state.node_id}",
        ]
        for found in answer.snapshots
    ]
    if table:
        print_table(("log_index", "root", "committed at", "records"), table)
    else:
        click.echo(f"{name} has no snapshot yet.")
    kept = answer.retention
    click.echo(
        f"log      {count(kept.log_floor)} to {count(kept.log_index)}, {size(kept.log_bytes)}; "
        f"workers replay from {count(kept.replay_floor)}"
    )
    if kept.archive_last:
        click.echo(f"archive  {count(kept.archive_first)} to {count(kept.archive_last)} on {answer.state.node_id}")
    click.echo(
        f"chunks   {count(kept.chunk_count)}, {size(kept.chunk_bytes)}; "
        f"{count(kept.gc_candidates)} unreachable in the last of {count(kept.gc_rounds)} rounds"
    )


def _retention(found: workspace_pb2.RetentionStatus) -> dict[str, int]:
    return {field.name: getattr(found, field.name) for field in found.DESCRIPTOR.fields}


@snapshot.command("take")
@click.argument("name")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until the node that answers has written it.")
@json_option
@timeout
@connection_options
def take_command(name: str, wait: bool, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> None:
    """Take a snapshot now, if anything changed since the last one."""

    async def work(client: Client) -> workspace_pb2.TakeSnapshotResponse:
        workspace = await client.open_workspace(name)
        answer = await take_snapshot(workspace)
        if wait and answer.log_index:
            async with asyncio.timeout(timeout_s or 60.0):
                await _held(client, name, answer.log_index)
        return answer

    try:
        answer = run_client(settings, work, timeout_s)
    except TimeoutError:
        raise NotFoundError("the snapshot is marked, and no node has written it yet: see `snapshot list`") from None
    if as_json:
        print_json({"log_index": answer.log_index, "taken": answer.taken})
    elif answer.taken:
        click.echo(f"✓ snapshot of {name} at log_index {count(answer.log_index)}")
    elif answer.log_index:
        click.echo(f"Nothing changed since the snapshot at log_index {count(answer.log_index)}.")
    else:
        click.echo(f"{name} is empty: there is nothing to take.")


async def _held(client: Client, name: str, log_index: int) -> None:
    workspace = await client.open_workspace(name)
    while True:
        for address in client.settings.nodes:
            try:
                await node_manifest(workspace, address, log_index)
            except HyperClusterError:
                continue
            return
        await asyncio.sleep(HELD_POLL_S)


@snapshot.command("verify")
@click.argument("name")
@click.option("--at", "log_index", type=click.IntRange(1), default=None, help="Which one; the newest by default.")
@click.option("--node", "addresses", multiple=True, metavar="HOST:PORT", help="Only this node; repeatable.")
@json_option
@timeout
@connection_options
def verify_command(
    name: str,
    log_index: int | None,
    addresses: tuple[str, ...],
    as_json: bool,
    timeout_s: float | None,
    settings: ClientSettings,
) -> int:
    """Read a snapshot from each node, check who signed it, and compute its root anew. Exits 1 if one is not sound."""

    async def work(client: Client) -> list[SnapshotCheck]:
        workspace = await client.open_workspace(name)
        at = log_index
        if at is None:
            found = (await list_snapshots(workspace)).snapshots
            if not found:
                raise NotFoundError(f"{name} has no snapshot yet: take one with `hypercluster workspace snapshot take`")
            at = found[-1].log_index
        return await verify_snapshot(workspace, at, addresses)

    checks = run_client(settings, work, timeout_s)
    if as_json:
        print_json(
            {
                "nodes": [
                    {
                        "address": check.address,
                        "log_index": check.log_index,
                        "signed_by": check.signed_by,
                        "records": check.records,
                        "problem": check.problem,
                    }
                    for check in checks
                ]
            }
        )
    else:
        for check in checks:
            words = check.problem or f"sound, {count(check.records)} records, signed by {check.signed_by or 'nobody'}"
            click.echo(f"{check.address}  log_index {count(check.log_index)}  {words}")
    return EXIT_UNSOUND if any(check.problem for check in checks) else 0


COMMANDS = (snapshot,)
