"""`hypercluster workspace lock run|why|list`: locks of a workspace, and commands that run under one (WS-47, WS-61).

Owns: the three commands and how a lock is shown to people.
Never: takes a lock away from its holder.
"""

from __future__ import annotations

import time

import click

from hypercluster.cli.client_command import json_option, print_json, print_table, run_client, shown
from hypercluster.cli.client_command import timeout_option as timeout
from hypercluster.cli.connection import connection_options
from hypercluster.cli.lock_run import run_under
from hypercluster.cli.words import age, instant
from hypercluster.client.client import Client
from hypercluster.client.settings import ClientSettings
from hypercluster.limits import LOCK_WAIT_MS_MAX
from hypercluster.pb.v1 import coordination_command_pb2 as lock_pb
from hypercluster.pb.v1 import coordination_pb2


@click.group("lock")
def lock() -> None:
    """Run commands under a lock; see who holds what.

    A lock is on a path that exists, or on a name that agents agreed on: name:NAME.
    """


@lock.command("run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("--shared", is_flag=True, help="Together with others that say so, too.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, LOCK_WAIT_MS_MAX / 1000),
    default=None,
    help="Seconds to wait for it; 0 not at all. As long as it takes, without it.",
)
@click.option("--one-at-a-time", is_flag=True, help="This process waits for one lock at a time: refuse a deadlock.")
@timeout
@connection_options
@click.argument("name")
@click.argument("path_or_name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_command(
    name: str,
    path_or_name: str,
    command: tuple[str, ...],
    shared: bool,
    wait_s: float | None,
    one_at_a_time: bool,
    timeout_s: float | None,
    settings: ClientSettings,
) -> int:
    """Run COMMAND while the lock on PATH_OR_NAME of workspace NAME is held; exit with its code.

    COMMAND gets the fencing token in HYPERCLUSTER_TOKEN and the lock's id in HYPERCLUSTER_LOCK_ID; `hypercluster
    workspace` commands below it carry the token by themselves. If the lease can not be renewed in time COMMAND and its
    process group are killed before anybody else can get the lock, and the exit code is 3. What it leaves running in its
    process group is killed when it ends.
    """
    words = list(command[1:] if command[0] == "--" else command)
    if not words:
        raise click.UsageError("give a command to run after --")

    async def work(client: Client) -> int:
        opened = await client.open_workspace(name)
        wanted = opened.lock(path_or_name, shared=shared, wait_s=wait_s, one_at_a_time=one_at_a_time)
        return await run_under(opened, wanted, words)

    return run_client(settings, work, timeout_s)


@lock.command("why")
@click.argument("name")
@click.argument("path_or_name")
@json_option
@timeout
@connection_options
def why_command(name: str, path_or_name: str, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> None:
    """Show who holds a lock, since when, and who waits for it in which order."""

    async def work(client: Client) -> list[coordination_pb2.LockRecord]:
        return await (await client.open_workspace(name)).locks(path_or_name)

    found = run_client(settings, work, timeout_s)
    if not found and not as_json:
        click.echo(f"{path_or_name}: nobody holds it or waits for it")
        return
    show_locks(found, as_json, with_target=False)


@lock.command("list")
@click.argument("name")
@json_option
@timeout
@connection_options
def list_command(name: str, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> None:
    """Show every lock and wait of workspace NAME."""

    async def work(client: Client) -> list[coordination_pb2.LockRecord]:
        return await (await client.open_workspace(name)).locks()

    show_locks(run_client(settings, work, timeout_s), as_json, with_target=True)


def show_locks(found: list[coordination_pb2.LockRecord], as_json: bool, *, with_target: bool) -> None:
    if as_json:
        for record in found:
            print_json(lock_summary(record))
        return
    now_ns = time.time_ns()
    rows = []
    for record in found:
        state = _word(lock_pb.LockState, record.state, "LOCK_STATE_")
        row = (
            f"waits, {record.position}." if record.position else f"{state} {_kind(record)}",
            record.agent or "-",
            record.worker or record.principal,
            str(record.token) if record.token else "-",
            age(now_ns - (record.granted_ns or record.asked_ns)),
            str(record.lock_id),
        )
        rows.append((target_of(record), *row) if with_target else row)
    columns = ("STATE", "AGENT", "WORKER", "TOKEN", "FOR", "LOCK")
    print_table(("TARGET", *columns) if with_target else columns, rows)


def target_of(record: coordination_pb2.LockRecord) -> str:
    target = record.target
    if record.path:
        return shown(record.path)
    return f"name:{target.name}" if target.name else f"inode {target.inode_id.hex()}"


def lock_summary(record: coordination_pb2.LockRecord) -> dict[str, object]:
    return {
        "lock_id": record.lock_id,
        "target": target_of(record),
        "kind": _kind(record),
        "state": _word(lock_pb.LockState, record.state, "LOCK_STATE_"),
        "token": record.token,
        "position": record.position,
        "permits": record.permits,
        "worker": record.worker,
        "principal": record.principal,
        "agent": record.agent,
        "client": record.client_id.hex(),
        "asked_at": instant(record.asked_ns),
        "granted_at": instant(record.granted_ns) if record.granted_ns else None,
        "waits_until": instant(record.wait_until_ns) if record.wait_until_ns else None,
    }


def _kind(record: coordination_pb2.LockRecord) -> str:
    return _word(lock_pb.LockKind, record.kind, "LOCK_KIND_")


def _word(kind: object, value: int, prefix: str) -> str:
    found: str = kind.Name(value)  # type: ignore[attr-defined]
    return found.removeprefix(prefix).lower()


COMMANDS = (lock,)
