"""`hypercluster workspace hazards|reserve|unreserve|reservations|set|workers`: working beside others (WS-44 to WS-46).

Owns: the commands that are about agents and settings, not about files.
Never: decides about a hazard or a reservation; the cluster has judged them.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from pathlib import Path

import click

from hypercluster.cli.client_command import json_option, print_json, print_table, run_client, shown
from hypercluster.cli.client_command import timeout_option as timeout
from hypercluster.cli.connection import connection_options
from hypercluster.cli.words import age, count, instant, size
from hypercluster.client.client import Client
from hypercluster.client.connected_workers import NodeAnswer, connected_workers
from hypercluster.client.event_watch import watch_events
from hypercluster.client.local_patterns import DEFAULTS
from hypercluster.client.settings import ClientSettings
from hypercluster.errors import HyperClusterError
from hypercluster.limits import RESERVATION_TTL_MS
from hypercluster.pb.v1 import coordination_command_pb2 as lock_pb
from hypercluster.pb.v1 import coordination_pb2

HAZARD_WORDS = {
    lock_pb.HAZARD_KIND_OVERLAPPING_WRITE: "both wrote the same bytes",
    lock_pb.HAZARD_KIND_CONCURRENT_RENAME: "both renamed it",
    lock_pb.HAZARD_KIND_WRITE_AFTER_UNLINK: "one wrote to what the other had removed",
}


@click.command("hazards")
@click.argument("name")
@click.option("-n", "last", type=click.IntRange(1, 1_000), default=20, show_default=True, help="How many of the last.")
@click.option("-f", "--follow", is_flag=True, help="Go on as they happen.")
@json_option
@timeout
@connection_options
def hazards(
    name: str, last: int, follow: bool, as_json: bool, timeout_s: float | None, settings: ClientSettings
) -> None:
    """Show operations of different agents that may have undone one another."""

    async def work(client: Client) -> None:
        opened = await client.open_workspace(name)
        seen = 0
        for found in sorted(await opened.hazards(last), key=lambda event: event.log_index):
            seen = max(seen, found.log_index)
            _show_hazard(found, as_json)
        if not follow:
            return
        async with aclosing(watch_events(client, opened.workspace_id, everything=True)) as events:
            async for event in events:
                if event.WhichOneof("event") == "hazard" and event.hazard.log_index > seen:
                    _show_hazard(event.hazard, as_json)

    try:
        run_client(settings, work, timeout_s)
    except KeyboardInterrupt:
        return


def _show_hazard(event: coordination_pb2.HazardEvent, as_json: bool) -> None:
    kind = event.hazard.kind
    if as_json:
        print_json(
            {
                "kind": lock_pb.HazardKind.Name(kind).removeprefix("HAZARD_KIND_").lower(),
                "log_index": event.log_index,
                "conflicting_log_index": event.hazard.conflicting_log_index,
                "inode_id": event.inode_id.hex(),
                "path": shown(event.path),
                "worker": event.worker,
                "agent": event.agent,
                "other_worker": event.other_worker,
                "other_agent": event.other_agent,
            }
        )
        return
    where = shown(event.path) or f"inode {event.inode_id.hex()}"
    later = event.agent or event.worker or "somebody"
    earlier = event.other_agent or event.other_worker or "somebody"
    click.echo(
        f"{event.log_index:>9}  {where}: {HAZARD_WORDS.get(kind, 'they met')}   {later} after {earlier} at "
        f"{count(event.hazard.conflicting_log_index)}"
    )


@click.command("reserve")
@click.argument("name")
@click.argument("pattern")
@click.option(
    "--for",
    "ttl_s",
    type=click.FloatRange(RESERVATION_TTL_MS[0] / 1000, RESERVATION_TTL_MS[1] / 1000),
    default=600.0,
    show_default=True,
    help="Seconds it lasts.",
)
@click.option("--shared", is_flag=True, help="Others may reserve the same paths as shared, too.")
@click.option("--renew", "reservation_id", type=click.IntRange(1), default=None, help="An earlier one.")
@json_option
@timeout
@connection_options
def reserve(
    name: str,
    pattern: str,
    ttl_s: float,
    shared: bool,
    reservation_id: int | None,
    as_json: bool,
    timeout_s: float | None,
    settings: ClientSettings,
) -> None:
    """Say that you work on the paths of PATTERN ('*', '?', and '**' over directories). Advisory, unless enforced."""

    async def work(client: Client) -> int:
        opened = await client.open_workspace(name)
        return await opened.reserve(pattern, ttl_s=ttl_s, exclusive=not shared, reservation_id=reservation_id or 0)

    made = run_client(settings, work, timeout_s)
    if as_json:
        print_json({"reservation_id": made, "pattern": pattern, "for_s": ttl_s})
    else:
        click.echo(f"✓ reserved {pattern} for {age(round(ttl_s * 1e9))}   reservation {made}")


@click.command("unreserve")
@click.argument("name")
@click.argument("reservation_id", type=click.IntRange(1))
@json_option
@timeout
@connection_options
def unreserve(name: str, reservation_id: int, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> None:
    """End a reservation."""

    async def work(client: Client) -> None:
        await (await client.open_workspace(name)).unreserve(reservation_id)

    run_client(settings, work, timeout_s)
    if as_json:
        print_json({"reservation_id": reservation_id, "ended": True})
    else:
        click.echo(f"✓ reservation {reservation_id} has ended")


@click.command("reservations")
@click.argument("name")
@json_option
@timeout
@connection_options
def reservations(name: str, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> None:
    """Show who works on which paths."""

    async def work(client: Client) -> list[coordination_pb2.ReservationRecord]:
        return await (await client.open_workspace(name)).reservations()

    found = run_client(settings, work, timeout_s)
    now_ns = time.time_ns()
    if as_json:
        for record in found:
            print_json(
                {
                    "reservation_id": record.reservation_id,
                    "pattern": shown(record.pattern),
                    "exclusive": record.exclusive,
                    "expires_at": instant(record.expires_ns),
                    "worker": record.worker,
                    "agent": record.agent,
                }
            )
        return
    rows = [
        (
            shown(record.pattern),
            "exclusive" if record.exclusive else "shared",
            record.agent or "-",
            record.worker or "-",
            age(record.expires_ns - now_ns),
            str(record.reservation_id),
        )
        for record in found
    ]
    print_table(("PATTERN", "KIND", "AGENT", "WORKER", "FOR ANOTHER", "RESERVATION"), rows)


@click.command("set")
@click.argument("name")
@click.option("--local-patterns", type=click.Path(dir_okay=False, path_type=Path), help="A file of them.")
@click.option("--local-defaults", is_flag=True, help="Build output, dependencies and caches stay on their host.")
@click.option("--enforce-reservations/--advise-reservations", "enforce", default=None, help="Refuse, or only tell.")
@click.option("--quota-bytes", type=click.IntRange(0), default=None, help="Content the workspace may hold; 0: any.")
@click.option("--quota-nodes", type=click.IntRange(0), default=None, help="Files and directories it may hold; 0: any.")
@click.option("--snapshot-every", "snapshot_every_s", type=click.IntRange(0), default=None, help="Seconds; 0: never.")
@click.option("--snapshots-kept", type=click.IntRange(0), default=None)
@json_option
@timeout
@connection_options
def set_command(
    name: str,
    local_patterns: Path | None,
    local_defaults: bool,
    enforce: bool | None,
    quota_bytes: int | None,
    quota_nodes: int | None,
    snapshot_every_s: int | None,
    snapshots_kept: int | None,
    as_json: bool,
    timeout_s: float | None,
    settings: ClientSettings,
) -> None:
    """Change settings of workspace NAME; without any, show them."""
    if local_patterns is not None and local_defaults:
        raise click.UsageError("--local-patterns and --local-defaults: give one of them")
    text = local_patterns.read_bytes() if local_patterns is not None else DEFAULTS if local_defaults else None
    wanted = lock_pb.WorkspaceSet(
        local_patterns=text,
        enforce_reservations=enforce,
        quota_bytes=quota_bytes,
        quota_nodes=quota_nodes,
        snapshot_every_s=snapshot_every_s,
        snapshots_kept=snapshots_kept,
    )

    async def work(client: Client) -> lock_pb.WorkspaceSet:
        opened = await client.open_workspace(name)
        if wanted.ByteSize():
            await opened.change_settings(wanted)
        return await opened.settings()

    found = settings_summary(run_client(settings, work, timeout_s))
    if as_json:
        print_json(found)
    else:
        print_table(("SETTING", "VALUE"), [(key, str(value)) for key, value in found.items()])


def settings_summary(found: lock_pb.WorkspaceSet) -> dict[str, object]:
    return {
        "local_patterns": found.local_patterns.decode("utf-8", "backslashreplace").splitlines(),
        "enforce_reservations": found.enforce_reservations,
        "quota_bytes": found.quota_bytes,
        "quota_nodes": found.quota_nodes,
        "snapshot_every_s": found.snapshot_every_s,
        "snapshots_kept": found.snapshots_kept,
    }


@click.command("workers")
@click.argument("name")
@json_option
@timeout
@connection_options
def workers(name: str, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> int:
    """Show the workers that follow workspace NAME, node by node. Exit code 1 if one of them has stopped."""

    async def work(client: Client) -> dict[str, NodeAnswer]:
        return await connected_workers(await client.open_workspace(name))

    rows: list[dict[str, object]] = []
    for node, answer in run_client(settings, work, timeout_s).items():
        if isinstance(answer, HyperClusterError):
            click.echo(f"{node}: {answer}", err=True)
            continue
        rows += [
            {
                "node": node,
                "worker": worker.worker,
                "applied_index": worker.applied_index,
                "lag": worker.lag,
                "read_only": worker.read_only,
                "missing_chunks": worker.missing_chunks,
                "error": worker.error_message,
                "error_log_index": worker.error_log_index,
                "disk_free_bytes": worker.pressure.disk_free_bytes,
            }
            for worker in answer
        ]
    if as_json:
        for row in rows:
            print_json(row)
    else:
        table = [
            (
                str(row["worker"]),
                str(row["node"]),
                count(int(str(row["applied_index"]))),
                count(int(str(row["lag"]))),
                size(int(str(row["disk_free_bytes"]))),
                f"STOPPED at {row['error_log_index']}: {row['error']}"
                if row["error"]
                else ("read-only" if row["read_only"] else "ok"),
            )
            for row in rows
        ]
        print_table(("WORKER", "NODE", "APPLIED", "LAG", "DISK FREE", "STATE"), table)
    return 1 if any(row["error"] for row in rows) else 0


COMMANDS = (hazards, reserve, unreserve, reservations, set_command, workers)
