"""`hypercluster workspace ls|cat|put|mv|rm|ln|stat|log`: one path at a time.

Owns: the commands on paths inside a workspace. Paths are relative to its root.
Never: follows symlinks.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import click

from hypercluster.cli.client_command import (
    intent_option,
    json_option,
    print_json,
    print_table,
    read_input,
    run_client,
    shown,
)
from hypercluster.cli.client_command import timeout_option as timeout
from hypercluster.cli.connection import connection_options
from hypercluster.cli.words import count, size
from hypercluster.client.client import Client
from hypercluster.client.file_ops import FileResult
from hypercluster.client.lane_types import Intent
from hypercluster.client.settings import ClientSettings
from hypercluster.client.workspace import Workspace, is_directory
from hypercluster.errors import HistoryGoneError
from hypercluster.limits import MIB
from hypercluster.pb.v1 import command_pb2, workspace_pb2
from hypercluster.pb.v1.workspace_command_pb2 import LogRecord

PUT_BYTES_MAX = 1024 * MIB
KIND_LETTERS = {
    workspace_pb2.FILE_KIND_FILE: stat.S_IFREG,
    workspace_pb2.FILE_KIND_DIRECTORY: stat.S_IFDIR,
    workspace_pb2.FILE_KIND_SYMLINK: stat.S_IFLNK,
}

base_option = click.option(
    "--base-index",
    type=click.IntRange(0),
    default=None,
    help="Only if it has not changed since this log_index (see stat).",
)


def instant(at_ns: int) -> str:
    """RFC 3339 with nine fraction digits and Z (WS-17)."""
    seconds, rest = divmod(at_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _show_result(result: FileResult, as_json: bool, what: str) -> None:
    if as_json:
        found = {"log_index": result.log_index, "raft_index": result.raft_index, "root": result.root.hex()}
        print_json({**found, "inode_no": result.inode_no, "committed_at": instant(result.committed_at_ns)})
    else:
        click.echo(f"✓ {what}   log_index {count(result.log_index)}   root {result.root.hex()[:12]}…")


@click.command("ls")
@click.argument("name")
@click.argument("path", default="")
@click.option("-l", "long", is_flag=True, help="Mode, size and time too.")
@json_option
@timeout
@connection_options
def ls(name: str, path: str, long: bool, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> None:
    """List a directory of workspace NAME."""

    async def work(client: Client) -> list[workspace_pb2.DirectoryEntry]:
        opened = await client.open_workspace(name)
        inode = await opened.stat(path)
        if not is_directory(inode):
            return [workspace_pb2.DirectoryEntry(name=os.fsencode(path), inode=inode)]
        return [entry async for entry in opened.readdir_inode(inode.inode_id)]

    for entry in run_client(settings, work, timeout_s):
        if as_json:
            print_json({"name": shown(entry.name), **_inode(entry.inode)})
        elif long:
            inode = entry.inode
            mode = stat.filemode(KIND_LETTERS[inode.kind] | inode.mode)
            arrow = f" -> {shown(inode.symlink_target)}" if inode.symlink_target else ""
            when = instant(inode.mtime_ns)[:19] + "Z"
            click.echo(f"{mode} {inode.nlink:>3} {inode.size:>10} {when} {shown(entry.name)}{arrow}")
        else:
            click.echo(shown(entry.name))


@click.command("cat")
@click.argument("name")
@click.argument("path")
@timeout
@connection_options
def cat(name: str, path: str, timeout_s: float | None, settings: ClientSettings) -> None:
    """Write a file's content to standard output."""

    async def work(client: Client) -> None:
        blocks: AsyncIterator[bytes] = (await client.open_workspace(name)).get(path)
        async for block in blocks:
            sys.stdout.buffer.write(block)

    run_client(settings, work, timeout_s)
    sys.stdout.buffer.flush()


@click.command("put")
@click.argument("name")
@click.argument("path")
@click.option("--mode", default="644", show_default=True, help="Octal mode of a new file.")
@click.option("--append", is_flag=True, help="Add to the end instead of replacing.")
@base_option
@json_option
@timeout
@connection_options
def put(
    name: str,
    path: str,
    mode: str,
    append: bool,
    base_index: int | None,
    as_json: bool,
    timeout_s: float | None,
    settings: ClientSettings,
) -> None:
    """Make PATH a file with the content of standard input."""
    try:
        bits = int(mode, 8)
    except ValueError as error:
        raise click.UsageError(f"--mode {mode}: not an octal number such as 644") from error
    content = read_input(PUT_BYTES_MAX)

    async def work(client: Client) -> FileResult:
        opened = await client.open_workspace(name)
        if append:
            return await opened.append(path, content, base_index=base_index)
        return await opened.put(path, content, mode=bits, base_index=base_index)

    result = run_client(settings, work, timeout_s)
    _show_result(result, as_json, f"{path}   {size(len(content))}")


@click.command("mv")
@click.argument("name")
@click.argument("source")
@click.argument("target")
@click.option("--no-replace", is_flag=True, help="Refuse if TARGET exists.")
@base_option
@json_option
@intent_option
@timeout
@connection_options
def mv(
    name: str,
    source: str,
    target: str,
    no_replace: bool,
    base_index: int | None,
    as_json: bool,
    intent: Intent | None,
    timeout_s: float | None,
    settings: ClientSettings,
) -> None:
    """Rename SOURCE to TARGET, which is replaced if it exists."""

    async def work(client: Client) -> FileResult:
        opened = await client.open_workspace(name)
        return await opened.rename(source, target, no_replace=no_replace, base_index=base_index)

    _show_result(run_client(settings, work, timeout_s, intent), as_json, f"{source} → {target}")


@click.command("rm")
@click.argument("name")
@click.argument("path")
@click.option("-r", "recursive", is_flag=True, help="A directory with everything in it (one operation each).")
@base_option
@json_option
@timeout
@connection_options
def rm(
    name: str,
    path: str,
    recursive: bool,
    base_index: int | None,
    as_json: bool,
    timeout_s: float | None,
    settings: ClientSettings,
) -> None:
    """Remove a file, symlink or empty directory."""

    async def work(client: Client) -> FileResult:
        opened = await client.open_workspace(name)
        inode = await opened.stat(path)
        if not is_directory(inode):
            return await opened.unlink(path, base_index=base_index)
        if recursive:
            await _empty(opened, inode.inode_id)
        return await opened.rmdir(path, base_index=base_index)

    _show_result(run_client(settings, work, timeout_s), as_json, f"removed {path}")


async def _empty(opened: Workspace, top: bytes) -> None:
    """Children before their directories. Not one step: who looks meanwhile sees a part gone."""
    found: list[tuple[bytes, bytes, bool]] = []
    pending = [top]
    while pending:
        directory = pending.pop()
        async for entry in opened.readdir_inode(directory):
            found.append((directory, entry.name, is_directory(entry.inode)))
            if is_directory(entry.inode):
                pending.append(entry.inode.inode_id)
    for directory, name, is_dir in reversed(found):
        await (opened.ops.rmdir(directory, name) if is_dir else opened.ops.unlink(directory, name))


@click.command("ln")
@click.argument("name")
@click.argument("existing")
@click.argument("path")
@click.option("-s", "symbolic", is_flag=True, help="A symlink; EXISTING is stored as it is.")
@json_option
@intent_option
@timeout
@connection_options
def ln(
    name: str,
    existing: str,
    path: str,
    symbolic: bool,
    as_json: bool,
    intent: Intent | None,
    timeout_s: float | None,
    settings: ClientSettings,
) -> None:
    """Make PATH another name of EXISTING."""

    async def work(client: Client) -> FileResult:
        opened = await client.open_workspace(name)
        return await (opened.symlink(existing, path) if symbolic else opened.link(existing, path))

    if symbolic and existing.startswith("/"):
        click.echo(f"note: {existing} is absolute; it may mean something else on another host", err=True)
    _show_result(run_client(settings, work, timeout_s, intent), as_json, f"{path} → {existing}")


@click.command("mkdir")
@click.argument("name")
@click.argument("path")
@json_option
@intent_option
@timeout
@connection_options
def mkdir(
    name: str, path: str, as_json: bool, intent: Intent | None, timeout_s: float | None, settings: ClientSettings
) -> None:
    """Make a directory."""

    async def work(client: Client) -> FileResult:
        return await (await client.open_workspace(name)).mkdir(path)

    _show_result(run_client(settings, work, timeout_s, intent), as_json, path)


@click.command("stat")
@click.argument("name")
@click.argument("path", default="")
@json_option
@timeout
@connection_options
def stat_command(name: str, path: str, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> None:
    """Show everything known of one path."""

    async def work(client: Client) -> workspace_pb2.Inode:
        return await (await client.open_workspace(name)).stat(path, with_xattrs=True)

    found = _inode(run_client(settings, work, timeout_s))
    if as_json:
        print_json(found)
    else:
        print_table(("FIELD", "VALUE"), [(key, str(value)) for key, value in found.items() if value != {}])


def _inode(inode: workspace_pb2.Inode) -> dict[str, object]:
    found: dict[str, object] = {
        "kind": workspace_pb2.FileKind.Name(inode.kind).removeprefix("FILE_KIND_").lower(),
        "mode": f"{inode.mode:04o}",
        "uid": inode.uid,
        "gid": inode.gid,
        "size": inode.size,
        "nlink": inode.nlink,
        "mtime": instant(inode.mtime_ns),
        "ctime": instant(inode.ctime_ns),
        "inode_no": inode.inode_no,
        "inode_id": inode.inode_id.hex(),
        "content_index": inode.content_index,
        "metadata_index": inode.metadata_index,
    }
    if inode.symlink_target:
        found["target"] = shown(inode.symlink_target)
    found["xattrs"] = {shown(x.name): shown(x.value) for x in inode.xattrs}
    return found


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
        try:
            async for record in opened.log(start, follow=follow):
                _show_record(record, as_json)
        except HistoryGoneError as error:
            raise HistoryGoneError(f"{error}; use --from with a later index") from error

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


COMMANDS = (ls, cat, put, mkdir, mv, rm, ln, stat_command, log)
