"""`hypercluster mount` and `hypercluster unmount`: a workspace as a directory of this host (WS-62, WS-65).

Owns: the two commands, and the way into the background: this process, the watchdog, the worker.
Never: serves a request; looks below a mount point, which may not answer.
`mount` returns once the directory can be used, or with the reason why it can not. What runs in the background writes to
STATE/log; STATE/watchdog holds its pid, and a lock as long as one of its processes lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from hypercluster.cli.client_command import json_option, print_json
from hypercluster.cli.connection import connection_options
from hypercluster.cli.words import count
from hypercluster.client.settings import ClientSettings
from hypercluster.client.worker.worker import state_directory
from hypercluster.errors import TurnedAwayError
from hypercluster.mount import mounting
from hypercluster.mount.guarding import GuardSettings

LOG_BYTES_MAX = 10_000_000  # of STATE/log; beyond it the log of the run before is put aside
UNMOUNT_S = 15.0
MESSAGE_BYTES_MAX = 8_192

directory_argument = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
state_option = click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=None,
    help="This host's copy; beside DIR by default.",
)


@click.command("mount")
@click.argument("workspace")
@directory_argument
@click.option("--foreground", is_flag=True, help="Stay in the foreground, log to stderr; Ctrl-C unmounts.")
@click.option("--name", default=None, help="What this worker is called; the host's name by default.")
@state_option
@click.option(
    "--stuck", "stuck_s", type=click.FloatRange(0.5, 600), default=2.0, show_default=True,
    help="Seconds without an answer after which a worker is killed and mounted again.",
)  # fmt: skip
@click.option(
    "--ask-every", "ask_every_s", type=click.FloatRange(0.1, 60), default=0.5, show_default=True,
    help="Seconds between an answer and the watchdog's next question.",
)  # fmt: skip
@click.option(
    "--no-leader", "no_leader_s", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True,
    help="Seconds a change that was never sent waits for a leader, before it fails with EROFS.",
)  # fmt: skip
@click.option(
    "--deadline", "deadline_s", type=click.FloatRange(1, 3600), default=30.0, show_default=True,
    help="Seconds a change that was sent is sent again, before it fails with EIO.",
)  # fmt: skip
@click.option("--clear-error", is_flag=True, help="Go on after a failure that stopped this host's copy.")
@click.option("--rebuild", is_flag=True, help="Fetch this host's copy anew, whether something stopped it or not.")
@json_option
@connection_options
def mount(
    workspace: str,
    directory: Path,
    foreground: bool,
    name: str | None,
    state: Path | None,
    stuck_s: float,
    ask_every_s: float,
    no_leader_s: float,
    deadline_s: float,
    clear_error: bool,
    rebuild: bool,
    as_json: bool,
    settings: ClientSettings,
) -> int:
    """Mount WORKSPACE on the empty directory DIR.

    Reads are local; every change returns once a majority of the cluster has it and it is visible here. Without a leader
    the mount stays readable and writes fail with EROFS: `getfattr -n user.hypercluster.why DIR` says why.
    """
    if ask_every_s >= stuck_s:
        raise click.UsageError(f"--ask-every {ask_every_s} must be below --stuck {stuck_s}")
    if no_leader_s > deadline_s:
        raise click.UsageError(f"--no-leader {no_leader_s} must not be above --deadline {deadline_s}")
    lane = replace(settings.lane, no_leader_ns=int(no_leader_s * 1e9), deadline_ns=int(deadline_s * 1e9))
    settings = replace(settings, lane=lane)
    problems = mounting.missing()
    if problems:
        raise TurnedAwayError("this host can not mount\n" + "\n".join(f"  {words}" for words in problems))
    real = mounting.check_free(directory)
    state = (state or state_directory(Path(real))).absolute()
    state.mkdir(parents=True, exist_ok=True)
    if clear_error or rebuild:
        _forget_failure(state, rebuild)
    worker = _worker(settings, workspace, real, state, name)
    guarding = GuardSettings(stuck_s, ask_every_s)
    say = partial(_say, workspace, directory, as_json)
    if foreground:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        return _watch(real, state, guarding, worker, say)
    words = _in_background(state, lambda told: _watch(real, state, guarding, worker, told))
    return 0 if say(words) else 1


def _forget_failure(state: Path, rebuild: bool) -> None:
    """WS-5: says what had stopped it."""
    from hypercluster.client.live.shelf import forget_failure

    failure = forget_failure(str(state / mounting.TREE), rebuild=rebuild)
    if failure is not None:
        click.echo(f"had stopped before log_index {failure.log_index}: {failure.message}", err=True)


def _worker(
    settings: ClientSettings, workspace: str, real: str, state: Path, name: str | None
) -> Callable[[int, str], int]:
    """Loaded here, before any fork, so that a worker that is started again is there at once."""
    from hypercluster.mount.worker import MountJob, default_name, run_worker

    job = MountJob(settings, workspace, real, state, name or default_name(), allow_other=os.geteuid() == 0)
    return lambda pipe, said: run_worker(job, pipe, said)


def _watch(
    real: str,
    state: Path,
    guarding: GuardSettings,
    worker: Callable[[int, str], int],
    told: Callable[[str], object],
) -> int:
    from hypercluster.mount.watchdog import Watchdog

    mark = _open_mark(state)
    try:
        if not _lock(mark):
            told(f"error: {state} is in use by another mount: give each its own with --state")
            return 1
        os.ftruncate(mark, 0)
        os.pwrite(mark, str(os.getpid()).encode(), 0)
        return Watchdog(real, guarding, worker, told).run()
    finally:
        os.close(mark)


def _open_mark(state: Path) -> int:
    """STATE/watchdog, whose lock the watchdog and its children hold as long as one of them lives."""
    return os.open(state / "watchdog", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(mark: int) -> bool:
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _say(workspace: str, directory: Path, as_json: bool, words: str) -> bool:
    """False if it is not mounted."""
    parts = words.split()
    if len(parts) != 3 or parts[0] != "mounted":
        click.echo(words or f"error: the process behind {directory} ended without a word", err=True)
        return False
    if as_json:
        found = {"workspace": workspace, "workspace_id": parts[1], "directory": str(directory)}
        print_json(found | {"log_index": int(parts[2])})
    else:
        click.echo(f"✓ {workspace} is mounted on {directory}   log_index {count(int(parts[2]))}")
        click.echo(f"  Take it away with: hypercluster unmount {directory}", err=True)
    return True


def _in_background(state: Path, body: Callable[[Callable[[str], None]], int]) -> str:
    """Runs `body` in a process of its own session, and returns what it tells first."""
    read, write = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        status = 1
        try:
            os.close(read)
            os.setsid()
            _log_to(state / "log")
            status = body(lambda words: _tell(write, words))
        except Exception:
            logging.exception("the watchdog failed")
        finally:
            os._exit(status)
    os.close(write)
    with open(read, "rb") as pipe:
        return pipe.readline(MESSAGE_BYTES_MAX).decode(errors="replace").strip()


def _tell(pipe: int, words: str) -> None:
    with contextlib.suppress(OSError):  # whoever asked for the mount has gone
        os.write(pipe, words.encode() + b"\n")
    os.close(pipe)


def _log_to(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".old"))
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)


@click.command("unmount")
@directory_argument
@click.option("--force", is_flag=True, help="Also when it is in use or does not answer: whoever uses it gets errors.")
@state_option
@json_option
def unmount(directory: Path, force: bool, state: Path | None, as_json: bool) -> None:
    """Take the mount on DIR away, and end the processes behind it."""
    real = mounting.real_directory(directory)
    there = mounting.find(real)
    if there is None:
        raise TurnedAwayError(f"{directory} is no mount of hypercluster")
    state = state or state_directory(Path(real))
    if not state.is_dir():
        raise TurnedAwayError(f"{state} is not there: give the --state that it was mounted with")
    mark = _open_mark(state)
    try:
        if force:
            _end_watchdog(mark)
            mounting.abort(there.connection)
            mounting.detach(real)
        else:
            mounting.unmount(real)
        end_s = time.monotonic() + UNMOUNT_S
        while not _lock(mark):
            if time.monotonic() >= end_s:
                raise TurnedAwayError(f"{directory} is not gone after {UNMOUNT_S:.0f} s: see {state / 'log'}")
            time.sleep(0.02)
    finally:
        os.close(mark)
    if as_json:
        print_json({"directory": str(directory), "mounted": False})
    else:
        click.echo(f"✓ {directory} is unmounted")


def _end_watchdog(mark: int) -> None:
    """So that it does not mount again what is taken away by force. Only a held lock says that the pid is its own."""
    if _lock(mark):
        fcntl.flock(mark, fcntl.LOCK_UN)
        return
    with contextlib.suppress(ProcessLookupError, ValueError):
        os.kill(int(os.pread(mark, 20, 0)), signal.SIGTERM)
