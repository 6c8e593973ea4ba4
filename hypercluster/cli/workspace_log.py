"""`hypercluster workspace log|history|intent`: what was accepted, in order, and what became of a command (WS-4, WS-36).

Owns: the three commands and the words for one operation.
Never: reads anything but the op log. `history` shows what names an inode, under whatever path it stood then.
"""

from __future__ import annotations

from contextlib import aclosing

import click

from hypercluster.cli.client_command import json_option, print_json, run_client, shown
from hypercluster.cli.client_command import timeout_option as timeout
from hypercluster.cli.connection import connection_options
from hypercluster.cli.main import EXIT_UNKNOWN
from hypercluster.cli.words import count, instant
from hypercluster.client.client import Client
from hypercluster.client.intents import IntentOutcome
from hypercluster.client.lane_types import Intent
from hypercluster.client.settings import ClientSettings
from hypercluster.errors import HistoryGoneError
from hypercluster.pb.v1 import command_pb2
from hypercluster.pb.v1.workspace_command_pb2 import LogRecord

INTENT_WORDS = {
    "in_flight": "it is on its way",
    "not_found": "it was not done yet, and may still be, if it is on its way: run it again with --intent to be sure",
    "forgotten": "it was judged too long ago: nobody can say how",
}


@click.command("log")
@click.argument("name")
@click.option("-n", "last", type=click.IntRange(1), default=20, show_default=True, help="How many of the last ones.")
@click.option("--from", "from_index", type=click.IntRange(1), default=None, help="From this log_index instead.")
@click.option("-f", "follow", is_flag=True, help="Go on as operations are accepted.")
@json_option
@timeout
@connection_options
def log(
    name: str,
    last: int,
    from_index: int | None,
    follow: bool,
    as_json: bool,
    timeout_s: float | None,
    settings: ClientSettings,
) -> None:
    """Show accepted operations in order."""

    async def work(client: Client) -> None:
        opened = await client.open_workspace(name)
        start = from_index
        if start is None:
            start = max(1, (await opened.barrier()).workspace.log_index - last + 1)
        async with aclosing(opened.log(start, follow=follow)) as records:
            async for record in records:
                _show_record(record, as_json)

    try:
        run_client(settings, work, timeout_s)
    except KeyboardInterrupt:
        return


def _show_record(record: LogRecord, as_json: bool) -> None:
    file = command_pb2.Command.FromString(record.command).file
    kind = file.WhichOneof("op") or "?"
    op = getattr(file, kind, None)
    place = getattr(op, "place", None) or getattr(op, "source", None)
    target = shown(place.name) if place is not None else ""
    if kind == "rename":
        target += f" → {shown(file.rename.target.name)}"
    if as_json:
        print_json(
            {
                "log_index": record.log_index,
                "raft_index": record.raft_index,
                "committed_at": instant(record.committed_at_ns),
                "op": kind,
                "name": target,
                "inode_id": record.inode_id.hex(),
                "client": record.client_id.hex(),
                "seq": record.client_seq,
                "worker": record.worker,
                "agent": record.origin.agent,
                "root": record.root.hex(),
            }
        )
    else:
        who = record.origin.agent or record.worker or record.client_id.hex()[:8]
        click.echo(f"{record.log_index:>9}  {instant(record.committed_at_ns)}  {who:<12}  {kind:<12} {target}")


@click.command("history")
@click.argument("name")
@click.argument("path")
@click.option("--from", "from_index", type=click.IntRange(1), default=None, help="From this log_index on.")
@json_option
@timeout
@connection_options
def history(
    name: str, path: str, from_index: int | None, as_json: bool, timeout_s: float | None, settings: ClientSettings
) -> None:
    """Show every operation on what stands at PATH now, as far as the log is kept."""

    async def work(client: Client) -> int:
        opened = await client.open_workspace(name)
        inode_id = await opened.inode_id(path)
        start = from_index or 1
        while True:
            try:
                async for record in opened.log(start):
                    if record.inode_id == inode_id:
                        _show_record(record, as_json)
                return start
            except HistoryGoneError as error:
                if from_index is not None or error.retained_from <= start:
                    raise
                start = error.retained_from

    began = run_client(settings, work, timeout_s)
    if began > 1 and from_index is None:
        click.echo(f"note: the log is kept from log_index {began}", err=True)


@click.command("intent")
@click.argument("token", metavar="KEY")
@json_option
@timeout
@connection_options
def intent(token: str, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> int:
    """Say what became of the command that an unknown outcome named as KEY. Exit code 3 while that is not known."""
    try:
        wanted = Intent.parse(token)
    except ValueError as error:
        raise click.UsageError(f"{token} is not an intent as an unknown outcome names it") from error

    async def work(client: Client) -> IntentOutcome:
        return await client.intent_outcome(wanted)

    found = run_client(settings, work, timeout_s)
    log_index = found.file.log_index if found.file is not None else 0
    if as_json:
        told = {"state": found.state, "as_of_raft_index": found.as_of_index, "reason": found.reason or None}
        print_json({**told, "raft_index": found.raft_index or None, "log_index": log_index or None})
    elif found.state == "committed" and found.reason == "OK":
        where = f"log_index {count(log_index)}" if log_index else f"Raft index {count(found.raft_index)}"
        click.echo(f"✓ it was done   {where}")
    elif found.state == "committed":
        click.echo(f"✗ it was refused: {found.reason.lower().replace('_', ' ')}")
    else:
        click.echo(f"{INTENT_WORDS[found.state]} (as of Raft index {count(found.as_of_index)})")
    return 0 if found.state == "committed" else EXIT_UNKNOWN


COMMANDS = (log, history, intent)
