"""`hypercluster workspace proof|verify-proof`: what stands at a path, shown by hashes alone (WS-35).

Owns: the two commands and the words for what a proof says.
Never: a cluster in `verify-proof`: it reads the files it is given and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import click

from hypercluster.cli.client_command import json_option, print_json, run_client, shown
from hypercluster.cli.client_command import timeout_option as timeout
from hypercluster.cli.connection import connection_options
from hypercluster.cli.words import count, instant, size
from hypercluster.client.client import Client
from hypercluster.client.proof_file import PROOF_FILE_BYTES_MAX, ProofFile, decode
from hypercluster.client.proving import make_proof
from hypercluster.client.settings import ClientSettings
from hypercluster.errors import MalformedError
from hypercluster.limits import MIB
from hypercluster.state_machine.workspace.records import KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK, Inode

CONTENT_BYTES_MAX = 4096 * MIB
KIND_WORDS = {KIND_FILE: "file", KIND_DIRECTORY: "directory", KIND_SYMLINK: "symlink"}


@click.command("proof")
@click.argument("name")
@click.argument("path")
@click.option("--index", "log_index", type=click.IntRange(1), default=None, help="At this log_index, if it is kept.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Instead of standard output.")
@timeout
@connection_options
def proof(
    name: str, path: str, log_index: int | None, out: Path | None, timeout_s: float | None, settings: ClientSettings
) -> None:
    """Write a file that proves what stands at PATH of workspace NAME.

    The file is JSON. Whoever has it, and a root they trust, needs no cluster to check it:
    see `hypercluster workspace verify-proof`.
    """

    async def work(client: Client) -> ProofFile:
        return await make_proof(await client.open_workspace(name), path, log_index=log_index or 0)

    made = run_client(settings, work, timeout_s)
    text = made.encode()
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_bytes(text)
        words = f"{out}   {size(len(text))}   log_index {count(made.log_index)}   root {made.root.hex()}"
        click.echo(f"✓ {words}", err=True)


@click.command("verify-proof")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--root", "root", metavar="HEX", default=None, help="The root it has to be a proof for.")
@click.option(
    "--content",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A local file: is it the content of the proven one?",
)
@json_option
def verify_proof(file: Path, root: str | None, content: Path | None, as_json: bool) -> int:
    """Say what the proof in FILE proves. Needs no cluster. Exit code 1 if it does not hold."""
    found = decode(read_bounded(file, PROOF_FILE_BYTES_MAX))
    trusted = _root(root)
    inode = found.verify()
    problem = "" if inode is not None else "the hashes do not lead from the path to the root"
    if trusted is not None and trusted != found.root:
        problem = f"it is a proof for root {found.root.hex()}, another than the one given"
    if not problem and inode is not None and content is not None:
        wrong = found.verify_content(inode, read_bounded(content, CONTENT_BYTES_MAX))
        problem = f"{content} is not the proven content: {wrong}" if wrong else ""
    if as_json:
        print_json(_summary(found, inode, problem, trusted is not None, content is not None))
    elif problem or inode is None:
        click.echo(f"✗ {file} proves nothing: {problem}", err=True)
    else:
        _tell(found, inode, trusted is not None, content)
    return 1 if problem else 0


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """Raises MalformedError for a file beyond the limit."""
    with path.open("rb") as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise MalformedError(f"{path}: more than {limit_bytes} bytes")
    return content


def _root(text: str | None) -> bytes | None:
    try:
        root = None if text is None else bytes.fromhex(text)
    except ValueError as error:
        raise click.UsageError(f"--root {text}: expected 64 hexadecimal digits") from error
    if root is not None and len(root) != 32:
        raise click.UsageError(f"--root: {len(root)} bytes, expected 32")
    return root


def _path(found: ProofFile) -> str:
    return shown(b"/".join(found.names)) or "/"


def _covered(inode: Inode) -> dict[str, object]:
    """What the root covers of an inode."""
    covered: dict[str, object] = {
        "kind": KIND_WORDS[inode.kind],
        "mode": f"{inode.mode:04o}",
        "uid": inode.uid,
        "gid": inode.gid,
        "nlink": inode.nlink,
        "size": inode.size,
        "mtime": instant(inode.mtime_ns),
        "ctime": instant(inode.ctime_ns),
        "inode_no": inode.inode_no,
        "inode_id": inode.inode_id.hex(),
        "content_digest": inode.content_digest.hex(),
        "xattr_digest": inode.xattr_digest.hex(),
    }
    if inode.target:
        covered["target"] = shown(inode.target)
    return covered


def _summary(
    found: ProofFile, inode: Inode | None, problem: str, root_given: bool, content_given: bool
) -> dict[str, object]:
    if problem or inode is None:
        return {"holds": False, "problem": problem}
    return {
        "holds": True,
        "root": found.root.hex(),
        "root_given": root_given,
        "path": _path(found),
        "content_checked": content_given,
        "inode": _covered(inode),
        "claimed": {"workspace_id": found.workspace_id.hex(), "log_index": found.log_index},
    }


def _tell(found: ProofFile, inode: Inode, root_given: bool, content: Path | None) -> None:
    kind = KIND_WORDS[inode.kind]
    click.echo(f"✓ In the tree with root {found.root.hex()}")
    click.echo(f"  {_path(found)} is a {kind}:")
    for name, value in _covered(inode).items():
        if name != "kind":
            click.echo(f"    {name:<15} {value}")
    if content is not None:
        click.echo(f"✓ {content} is exactly its content, {size(inode.size)}")
    click.echo(f"  The file says it is workspace {found.workspace_id.hex()} at log_index {count(found.log_index)};")
    click.echo("  a root covers neither of the two.")
    if not root_given:
        click.echo("  That the root is the cluster's is not shown here: give the one you trust with --root.")


COMMANDS = (proof, verify_proof)
