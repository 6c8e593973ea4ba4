"""`hypercluster worker`: a directory that follows a workspace.

Owns: run, status and verify of a worker on this host.
Never: a second worker on one directory; the state directory is locked while one runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hypercluster.cli.client_command import json_option, print_json
from hypercluster.cli.connection import connection_options
from hypercluster.client.client import Client
from hypercluster.client.settings import ClientSettings
from hypercluster.client.worker.state import read_status
from hypercluster.client.worker.verify import Verification
from hypercluster.client.worker.worker import Worker, state_directory
from hypercluster.errors import NotFoundError, TurnedAwayError

FINDINGS_SHOWN = 50

state_option = click.option(
    "--state", type=click.Path(path_type=Path), default=None, help="State directory; beside DIR by default."
)
directory_argument = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


@click.group()
def worker() -> None:
    """Mirror a workspace into a directory, and look after such a mirror."""


@worker.command("run")
@directory_argument
@click.option("--workspace", "-w", required=True, help="Name of the workspace.")
@click.option("--name", required=True, help="What this worker is called.")
@state_option
@click.option("--clear-error", is_flag=True, help="Go on after a failure that stopped this worker.")
@click.option("--rebuild", is_flag=True, help="Throw the mirror away and build it from a snapshot.")
@connection_options
def run_command(
    directory: Path,
    workspace: str,
    name: str,
    state: Path | None,
    clear_error: bool,
    rebuild: bool,
    settings: ClientSettings,
) -> None:
    """Keep DIR equal to a workspace until Ctrl-C or SIGTERM.

    DIR is read-only by convention: what others change in it is not noticed before `worker verify`. Changes go through
    `hypercluster workspace`. What is in DIR survives restarts; after a kill the worker goes on where it was.
    """
    state = state or state_directory(directory.absolute())
    with _only_one(state):
        asyncio.run(_until_told(_run(settings, directory, state, workspace, name, clear_error, rebuild), name))


async def _until_told(work: Coroutine[None, None, None], name: str) -> None:
    """Ends in order when told to, also while it is still starting."""
    task = asyncio.create_task(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    if task.cancelled():
        click.echo(f"worker {name}: stopped", err=True)


async def _run(
    settings: ClientSettings,
    directory: Path,
    state: Path,
    workspace: str,
    name: str,
    clear_error: bool,
    rebuild: bool,
) -> None:
    async with Client(settings, name=name) as client:
        opened = await client.open_workspace(workspace)
        async with Worker(client, opened.workspace_id, workspace, name, directory, state) as running:
            if clear_error or rebuild:
                await running.clear_failure(rebuild=rebuild)
            if running.status.failure is not None:
                failure = running.status.failure
                click.echo(
                    f"stopped at log_index {failure.log_index}: {failure.message}\n"
                    "  DIR stays as it was before. Go on with --clear-error, or start over with --rebuild.",
                    err=True,
                )
            click.echo(f"worker {name}: {directory} follows {workspace} (state in {state})", err=True)
            await running.run()


@worker.command("status")
@directory_argument
@state_option
@json_option
def status_command(directory: Path, state: Path | None, as_json: bool) -> int:
    """Show how far the worker of DIR is. Exit code 1 if it has stopped on a failure."""
    found = read_status(state or state_directory(directory.absolute()))
    if found is None:
        raise NotFoundError(f"{directory} has no worker state: start one with `hypercluster worker run`")
    running = _is_running(state or state_directory(directory.absolute()))
    found["running"] = running
    if as_json:
        print_json(found)
    else:
        lag = int(str(found["cluster_index"])) - int(str(found["applied_index"]))
        click.echo(f"{found['worker']}  {found['workspace']}  {found['state'] if running else 'not running'}")
        click.echo(f"log_index {found['applied_index']}  behind by {lag}  root {str(found['root'])[:12]}…")
        failure = found["failure"]
        if isinstance(failure, dict):
            click.echo(f"STOPPED at log_index {failure['log_index']}: {failure['message']}")
        problems = found["problems"]
        for path, words in (problems if isinstance(problems, dict) else {}).items():
            click.echo(f"could not be set: {path}: {words}")
    return 1 if found["failure"] else 0


@worker.command("verify")
@directory_argument
@click.option("--workspace", "-w", required=True, help="Name of the workspace.")
@state_option
@json_option
@connection_options
def verify_command(directory: Path, workspace: str, state: Path | None, as_json: bool, settings: ClientSettings) -> int:
    """Read DIR again and hold it against the tree whose root the cluster agreed on. The worker must not be running."""
    state = state or state_directory(directory.absolute())

    async def work() -> tuple[Verification, int, str]:
        async with Client(settings) as client:
            opened = await client.open_workspace(workspace)
            async with Worker(client, opened.workspace_id, workspace, "verify", directory, state) as stopped:
                await stopped.recover()
                found = await stopped.verify()
                return found, stopped.status.applied_index, stopped.status.root

    if not state.exists():
        raise NotFoundError(f"{directory} has no worker state")
    with _only_one(state):
        found, log_index, root = asyncio.run(work())
    if as_json:
        findings = [{"path": os.fsdecode(f.path), "problem": f.words} for f in found.findings]
        print_json({"entries": found.entries, "log_index": log_index, "root": root, "findings": findings})
    else:
        for finding in found.findings[:FINDINGS_SHOWN]:
            click.echo(f"{os.fsdecode(finding.path) or '.'}: {finding.words}")
        if found.findings:
            click.echo(f"✗ {len(found.findings)} differences at log_index {log_index}; mend with: worker run --rebuild")
        else:
            click.echo(f"✓ {found.entries} entries equal the tree at log_index {log_index}   root {root[:12]}…")
    return 1 if found.findings else 0


@contextmanager
def _only_one(state: Path) -> Iterator[None]:
    """Raises TurnedAwayError if a worker uses the state directory."""
    state.mkdir(parents=True, exist_ok=True)
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 20, 0).decode(errors="replace")
            raise TurnedAwayError(f"{state} is in use by the worker with pid {pid}") from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)


def _is_running(state: Path) -> bool:
    try:
        with _only_one(state):
            return False
    except TurnedAwayError:
        return True
