"""`hypercluster workspace xattr get|set|list|rm`: extended attributes of one path (WS-24, WS-61).

Owns: the four commands. A value is bytes: it comes from standard input or the command line, and goes out as it is.
Never: follows symlinks, or adds a prefix to a name: a mount or a mirror sets only `user.` names on its host.
"""

from __future__ import annotations

import errno
import os
import sys
from base64 import b64encode

import click

from hypercluster.cli.client_command import (
    intent_option,
    json_option,
    open_for_change,
    print_json,
    print_table,
    read_input,
    run_client,
    show_result,
    shown,
)
from hypercluster.cli.client_command import timeout_option as timeout
from hypercluster.cli.connection import connection_options
from hypercluster.cli.words import size
from hypercluster.client.client import Client
from hypercluster.client.file_ops import FileResult
from hypercluster.client.lane_types import Intent
from hypercluster.client.settings import ClientSettings
from hypercluster.client.workspace import file_error
from hypercluster.limits import XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX
from hypercluster.pb.v1 import workspace_command_pb2 as file_pb
from hypercluster.pb.v1 import workspace_pb2

FLAGS = {
    None: file_pb.XATTR_FLAG_ANY,
    "create": file_pb.XATTR_FLAG_CREATE,
    "replace": file_pb.XATTR_FLAG_REPLACE,
}


@click.group("xattr")
def xattr() -> None:
    """Read and write extended attributes of a path."""


def _find(settings: ClientSettings, timeout_s: float | None, name: str, path: str) -> list[workspace_pb2.Xattr]:
    async def work(client: Client) -> list[workspace_pb2.Xattr]:
        inode = await (await client.open_workspace(name)).stat(path, with_xattrs=True)
        return list(inode.xattrs)

    return run_client(settings, work, timeout_s)


@xattr.command("list")
@click.argument("name")
@click.argument("path")
@json_option
@timeout
@connection_options
def list_command(name: str, path: str, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> None:
    """List the attributes of PATH, sorted by name."""
    found = _find(settings, timeout_s, name, path)
    if as_json:
        for attribute in found:
            print_json({"name": shown(attribute.name), "bytes": len(attribute.value)})
    else:
        print_table(("ATTRIBUTE", "SIZE"), [(shown(a.name), size(len(a.value))) for a in found])


@xattr.command("get")
@click.argument("name")
@click.argument("path")
@click.argument("attribute")
@json_option
@timeout
@connection_options
def get_command(
    name: str, path: str, attribute: str, as_json: bool, timeout_s: float | None, settings: ClientSettings
) -> None:
    """Write the value of ATTRIBUTE of PATH to standard output, as it is."""
    wanted = os.fsencode(attribute)
    value = next((a.value for a in _find(settings, timeout_s, name, path) if a.name == wanted), None)
    if value is None:
        raise file_error(errno.ENODATA, f"{path}: {attribute}")
    if as_json:
        print_json({"name": attribute, "bytes": len(value), "base64": b64encode(value).decode()})
    else:
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()


@xattr.command("set")
@click.argument("name")
@click.argument("path")
@click.argument("attribute")
@click.argument("value", required=False)
@click.option("--create", "flag", flag_value="create", help="Refuse if it is there.")
@click.option("--replace", "flag", flag_value="replace", help="Refuse if it is not there.")
@json_option
@intent_option
@timeout
@connection_options
def set_command(
    name: str,
    path: str,
    attribute: str,
    value: str | None,
    flag: str | None,
    as_json: bool,
    intent: Intent | None,
    timeout_s: float | None,
    settings: ClientSettings,
) -> None:
    """Set ATTRIBUTE of PATH to VALUE, or to standard input if there is none."""
    content = read_input(XATTR_VALUE_BYTES_MAX) if value is None else os.fsencode(value)
    if len(os.fsencode(attribute)) > XATTR_NAME_BYTES_MAX:
        raise file_error(
            errno.ERANGE, f"ATTRIBUTE: {len(os.fsencode(attribute))} bytes, at most {XATTR_NAME_BYTES_MAX}"
        )
    if len(content) > XATTR_VALUE_BYTES_MAX:
        raise file_error(errno.E2BIG, f"VALUE: {len(content)} bytes, at most {XATTR_VALUE_BYTES_MAX}")

    async def work(client: Client) -> FileResult:
        opened = await open_for_change(client, name)
        inode_id = await opened.inode_id(path)
        return await opened.ops.set_xattr(inode_id, os.fsencode(attribute), content, flag=FLAGS[flag])

    show_result(run_client(settings, work, timeout_s, intent), as_json, f"{path}: {attribute}   {size(len(content))}")


@xattr.command("rm")
@click.argument("name")
@click.argument("path")
@click.argument("attribute")
@json_option
@intent_option
@timeout
@connection_options
def rm_command(
    name: str,
    path: str,
    attribute: str,
    as_json: bool,
    intent: Intent | None,
    timeout_s: float | None,
    settings: ClientSettings,
) -> None:
    """Remove ATTRIBUTE from PATH."""

    async def work(client: Client) -> FileResult:
        return await (await open_for_change(client, name)).remove_xattr(path, attribute)

    show_result(run_client(settings, work, timeout_s, intent), as_json, f"{path}: removed {attribute}")


COMMANDS = (xattr,)
