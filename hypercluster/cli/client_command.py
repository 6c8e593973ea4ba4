"""What every client command does the same: open a client, run, print a table or JSON, end with the right code.

Owns: `run_client`, the output of rows, and progress on a terminal.
Never: a command's work.
Exit codes are main.py's: a refusal ends with 1, an unknown outcome with 3.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import click

from hypercluster.cli.words import count, instant
from hypercluster.client.client import Client
from hypercluster.client.file_ops import FileResult
from hypercluster.client.lane_types import Intent
from hypercluster.client.lock_guard import GUARD_VARIABLE, LockGuard
from hypercluster.client.settings import ClientSettings
from hypercluster.client.workspace import Workspace
from hypercluster.errors import HyperClusterError, NoQuorumError, Outcome, OutcomeUnknownError

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object (or one a line), instead of text.")
timeout_option = click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0.1, 3600), default=None, help="Seconds to wait for a leader."
)


def _parse_intent(_context: click.Context, _parameter: click.Parameter, token: str | None) -> Intent | None:
    """What an unknown outcome named, as CLIENT:SEQ:BASIS."""
    if token is None:
        return None
    try:
        return Intent.parse(token)
    except ValueError as error:
        raise click.BadParameter(f"{token} is not an intent as an unknown outcome names it") from error


intent_option = click.option(
    "--intent",
    callback=_parse_intent,
    metavar="TOKEN",
    help="After an unknown outcome: the same command again, applied at most once.",
)


def run_client(
    settings: ClientSettings,
    work: Callable[[Client], Awaitable[T]],
    timeout_s: float | None = None,
    intent: Intent | None = None,
) -> T:
    """Runs `work` with a client that is closed afterwards. With `intent` its first command is sent under that key."""
    if timeout_s is not None:
        lane = replace(
            settings.lane,
            no_leader_ns=int(timeout_s * 1e9),
            deadline_ns=max(settings.lane.deadline_ns, int(timeout_s * 1e9)),
        )
        settings = replace(settings, lane=lane, read_deadline_s=timeout_s)

    async def body() -> T:
        async with Client(settings, resume=intent) as client:
            try:
                return await work(client)
            except HyperClusterError as error:
                told = _in_words(error, client, intent)
                if told is error:
                    raise
                raise told from error
            except asyncio.CancelledError:
                if client.pending:
                    words = f"interrupted: commands without an answer, {client.pending} of them, may be applied or not"
                    click.echo(words, err=True)
                raise

    return asyncio.run(body())


def _in_words(error: HyperClusterError, client: Client, intent: Intent | None) -> HyperClusterError:
    """The same error, with what to type next."""
    if intent is not None and not client.judged and not isinstance(error, OutcomeUnknownError):
        # This run has not brought the command before a leader; the run before may have.
        return OutcomeUnknownError(f"{error}\n  What became of the earlier command is still not known.{_again(intent)}")
    if isinstance(error, OutcomeUnknownError):
        notes = getattr(error, "__notes__", [])
        return OutcomeUnknownError(f"{error}{_again(Intent.parse(notes[0]))}") if notes else error
    if not isinstance(error, NoQuorumError):
        return error
    words = str(error)
    if "(tried " not in words:
        words = client.nodes.no_leader_words(client.settings.lane.no_leader_ns / 1e9)
    definite = error.outcome is Outcome.DEFINITELY_NOT
    done = "Nothing was written." if definite else "What was done before that stays."
    found = NoQuorumError(f"{words}\n  {done} See: hypercluster status")
    found.outcome = error.outcome
    return found


def _again(intent: Intent) -> str:
    context = click.get_current_context(silent=True)
    if context is None or not any(parameter.name == "intent" for parameter in context.command.params):
        return f"\n  To learn what became of it: hypercluster workspace intent {intent.token()}"
    return (
        f"\n  To learn what became of it, run the same command again with --intent {intent.token()}"
        "\n  However often it is sent, it is applied at most once."
    )


async def open_for_change(client: Client, name: str) -> Workspace:
    """The workspace; under `workspace lock run` every change through it carries that lock's token (WS-42)."""
    opened = await client.open_workspace(name)
    guard = LockGuard.parse(os.environ.get(GUARD_VARIABLE, ""))
    if guard is None or guard.workspace_id != opened.workspace_id:
        return opened
    opened.ops = opened.ops.guarded(lambda: [guard.message()])
    return opened


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as what is in them, so that a pipe gets whole values."""
    lines = [list(columns), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def show_result(result: FileResult, as_json: bool, what: str) -> None:
    """The acknowledgement of one file command."""
    if as_json:
        found: dict[str, object] = {"log_index": result.log_index, "raft_index": result.raft_index}
        found["root"] = result.root.hex()
        found |= {"inode_no": result.inode_no, "committed_at": instant(result.committed_at_ns)}
        print_json({**found, "hazard_log_index": result.hazard_index or None})
    else:
        click.echo(f"✓ {what}   log_index {count(result.log_index)}   root {result.root.hex()[:12]}…")
    if result.hazard_index:
        click.echo(
            f"note: it may have undone another's operation at log_index {count(result.hazard_index)} "
            "(see: hypercluster workspace hazards)",
            err=True,
        )


def shown(name: bytes) -> str:
    """A name for people and for JSON: UTF-8, other bytes as escapes."""
    return name.decode("utf-8", "backslashreplace")


def on_terminal() -> bool:
    return sys.stderr.isatty()


def read_input(limit_bytes: int) -> bytes:
    """Standard input. Raises click.UsageError if there is more than `limit_bytes`."""
    content = sys.stdin.buffer.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise click.UsageError(f"standard input holds more than {limit_bytes} bytes")
    return content
