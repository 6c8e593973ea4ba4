"""`hypercluster workspace ls|cat|put|mkdir|mv|rm|ln|stat`: one path at a time.

Owns: the commands on paths inside a workspace. Paths are relative to its root.
Never: follows symlinks.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from base64 import b64encode
from contextlib import nullcontext

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
from hypercluster.cli.words import instant, size
from hypercluster.client.client import Client
from hypercluster.client.file_ops import FileResult, after_a_part
from hypercluster.client.lane_types import Intent
from hypercluster.client.settings import ClientSettings
from hypercluster.client.workspace import Workspace, is_directory
from hypercluster.limits import MIB
from hypercluster.pb.v1 import workspace_pb2

PUT_BYTES_MAX = 1024 * MIB
OCTAL = re.compile(r"[0-7]{1,6}")
MODE_MAX = 0o7777
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
@json_option
@timeout
@connection_options
def cat(name: str, path: str, as_json: bool, timeout_s: float | None, settings: ClientSettings) -> None:
    """Write a file's content to standard output; with --json one object a block, its content in base64."""

    async def work(client: Client) -> None:
        offset = 0
        async for block in (await client.open_workspace(name)).get(path):
            if as_json:
                print_json({"offset": offset, "bytes": len(block), "base64": b64encode(block).decode()})
            else:
                sys.stdout.buffer.write(block)
            offset += len(block)

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
    bits = int(mode, 8) if OCTAL.fullmatch(mode) else MODE_MAX + 1
    if bits > MODE_MAX:
        raise click.UsageError(f"--mode {mode}: not an octal number such as 644, at most {MODE_MAX:o}")
    content = read_input(PUT_BYTES_MAX)

    async def work(client: Client) -> FileResult:
        opened = await open_for_change(client, name)
        if append:
            return await opened.append(path, content, base_index=base_index)
        return await opened.put(path, content, mode=bits, base_index=base_index)

    result = run_client(settings, work, timeout_s)
    show_result(result, as_json, f"{path}   {size(len(content))}")


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
        opened = await open_for_change(client, name)
        return await opened.rename(source, target, no_replace=no_replace, base_index=base_index)

    show_result(run_client(settings, work, timeout_s, intent), as_json, f"{source} → {target}")


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
        opened = await open_for_change(client, name)
        await opened.parent(path)  # refuses the root before anything in it is gone
        inode = await opened.stat(path)
        if not is_directory(inode):
            return await opened.unlink(path, base_index=base_index)
        if not recursive:
            return await opened.rmdir(path, base_index=base_index)
        await _empty(opened, inode.inode_id)
        with after_a_part("what was in it is gone"):
            return await opened.rmdir(path, base_index=base_index)

    show_result(run_client(settings, work, timeout_s), as_json, f"removed {path}")


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
    for removed, (directory, name, is_dir) in enumerate(reversed(found)):
        with after_a_part(f"{removed} of {len(found)} entries were removed") if removed else nullcontext():
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
        opened = await open_for_change(client, name)
        return await (opened.symlink(existing, path) if symbolic else opened.link(existing, path))

    if symbolic and existing.startswith("/"):
        click.echo(f"note: {existing} is absolute; it may mean something else on another host", err=True)
    show_result(run_client(settings, work, timeout_s, intent), as_json, f"{path} → {existing}")


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
        return await (await open_for_change(client, name)).mkdir(path)

    show_result(run_client(settings, work, timeout_s, intent), as_json, path)


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


COMMANDS = (ls, cat, put, mkdir, mv, rm, ln, stat_command)
