"""`hypercluster hub`: small shared state from the command line.

Owns: get, set, del and list.
Never: interprets a payload beyond asking for JSON.
"""

from __future__ import annotations

import json

import click

from hypercluster.cli.client_command import (
    intent_option,
    json_option,
    print_json,
    print_table,
    read_input,
    run_client,
    timeout_option,
)
from hypercluster.cli.connection import connection_options
from hypercluster.client.client import Client
from hypercluster.client.hub import HubValue, HubWritten
from hypercluster.client.lane_types import Intent
from hypercluster.client.settings import ClientSettings
from hypercluster.errors import NotFoundError
from hypercluster.limits import HUB_PAYLOAD_BYTES_MAX
from hypercluster.values import ReadLevel

LEVELS = {
    "linearizable": ReadLevel.LINEARIZABLE,
    "leader": ReadLevel.LEADER_LOCAL,
    "stale": ReadLevel.BOUNDED_STALE,
}

namespace_option = click.option(
    "--namespace", "-n", default="metadata", show_default=True, help="settings or metadata."
)
level_option = click.option(
    "--level", type=click.Choice(list(LEVELS)), default="linearizable", show_default=True, help="How fresh."
)
version_option = click.option(
    "--expected-version",
    type=click.IntRange(0),
    default=None,
    help="Only if the key has this version; 0: only if there is none. Required in settings.",
)


@click.group()
def hub() -> None:
    """Read and write small shared state: settings (compare-and-set) and metadata (last writer wins)."""


@hub.command("get")
@click.argument("hub_key", metavar="KEY")
@namespace_option
@level_option
@json_option
@timeout_option
@connection_options
def get_command(
    hub_key: str, namespace: str, level: str, as_json: bool, timeout_s: float | None, settings: ClientSettings
) -> None:
    """Print the value of KEY."""

    async def work(client: Client) -> HubValue:
        return await client.hub.get(namespace, hub_key.encode(), level=LEVELS[level])

    value = run_client(settings, work, timeout_s)
    if not value.found:
        raise NotFoundError(f"{namespace} has no key {hub_key}")
    if as_json:
        print_json(_as_dict(value))
    else:
        click.echo(value.payload)


@hub.command("set")
@click.argument("hub_key", metavar="KEY")
@click.argument("value", required=False)
@namespace_option
@version_option
@json_option
@intent_option
@timeout_option
@connection_options
def set_command(
    hub_key: str,
    value: str | None,
    namespace: str,
    expected_version: int | None,
    as_json: bool,
    intent: Intent | None,
    timeout_s: float | None,
    settings: ClientSettings,
) -> None:
    """Set KEY to VALUE, which is JSON; without VALUE it is read from standard input."""
    payload = read_input(HUB_PAYLOAD_BYTES_MAX) if value is None else value.encode()
    try:
        json.loads(payload)
    except ValueError as error:
        raise click.UsageError(f"the value is not JSON ({error}); a text needs quotes: '\"{value}\"'") from error

    async def work(client: Client) -> HubWritten:
        return await client.hub.set(namespace, hub_key.encode(), payload, expected_version=expected_version)

    _show_written(run_client(settings, work, timeout_s, intent), as_json)


@hub.command("del")
@click.argument("hub_key", metavar="KEY")
@namespace_option
@version_option
@json_option
@intent_option
@timeout_option
@connection_options
def del_command(
    hub_key: str,
    namespace: str,
    expected_version: int | None,
    as_json: bool,
    intent: Intent | None,
    timeout_s: float | None,
    settings: ClientSettings,
) -> None:
    """Remove KEY."""

    async def work(client: Client) -> HubWritten:
        return await client.hub.delete(namespace, hub_key.encode(), expected_version=expected_version)

    _show_written(run_client(settings, work, timeout_s, intent), as_json)


@hub.command("list")
@click.argument("prefix", default="")
@namespace_option
@level_option
@json_option
@timeout_option
@connection_options
def list_command(
    prefix: str, namespace: str, level: str, as_json: bool, timeout_s: float | None, settings: ClientSettings
) -> None:
    """List keys that begin with PREFIX, with their versions."""

    async def work(client: Client) -> list[HubValue]:
        return [v async for v in client.hub.list(namespace, prefix.encode(), level=LEVELS[level])]

    values = run_client(settings, work, timeout_s)
    if as_json:
        for value in values:
            print_json(_as_dict(value))
        return
    rows = [(v.key.decode(errors="replace"), str(v.version), v.payload.decode(errors="replace")[:80]) for v in values]
    print_table(("KEY", "VERSION", "VALUE"), rows)


def _as_dict(value: HubValue) -> dict[str, object]:
    return {
        "key": value.key.decode(errors="replace"),
        "value": json.loads(value.payload) if value.payload else None,
        "version": value.version,
        "raft_index": value.raft_index,
        "staleness_ms": value.staleness_ms,
    }


def _show_written(written: HubWritten, as_json: bool) -> None:
    if as_json:
        print_json({"version": written.version, "raft_index": written.raft_index})
    else:
        click.echo(f"✓ version {written.version}   raft index {written.raft_index}")
