"""The process that serves a mount: client, live tree, front and session put together, from mounting to unmounting.

Owns: the order in which they begin and end, and the report to the watchdog: `mounted WORKSPACE_ID LOG_INDEX`, or
`error: ` and words.
Never: judges whether it is stuck; that is the watchdog's.
Invariants: the mount is there once the tree is, up to date if there is a leader; it ends when the kernel says that it
was unmounted, or when told by SIGTERM. Whoever still waits then is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import uvloop

from hypercluster.client.client import Client
from hypercluster.client.live.live_tree import LiveWorkspace
from hypercluster.client.settings import ClientSettings
from hypercluster.client.workspace import Workspace
from hypercluster.errors import FatalError, HyperClusterError, TurnedAwayError
from hypercluster.mount import mounting
from hypercluster.mount.cluster_locks import ClusterLocks
from hypercluster.mount.front import Front
from hypercluster.mount.local.ground import Ground
from hypercluster.mount.local.patterns import PatternsInForce
from hypercluster.mount.session import Session
from hypercluster.mount.watchdog import CANNOT, MOUNTED

CATCH_UP_S: Final = 2.0
SWITCH_S: Final = 0.0005  # a thread that has a request's answer waits no longer than this for the interpreter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MountJob:
    """What is mounted where, by whom. `directory` is a real path; `state` is this host's copy of the tree."""

    settings: ClientSettings
    workspace: str
    directory: str
    state: Path
    name: str
    allow_other: bool


def default_name() -> str:
    return socket.gethostname()


def mount_options(job: MountJob) -> list[str]:
    """For libfuse. The kernel checks permission bits, and only for the workspace's own user is anything allowed."""
    options = [f"fsname={mounting.SOURCE}{job.workspace}", f"subtype={mounting.FILESYSTEM}", "default_permissions"]
    return [*options, "nodev", "nosuid", "noatime", *(["allow_other"] if job.allow_other else [])]


def check_user(uid: int) -> None:
    """WS-6. Raises TurnedAwayError."""
    if os.geteuid() not in {0, uid}:
        raise TurnedAwayError(
            f"the workspace belongs to uid {uid}, and uid {os.geteuid()} can not mount it: be that user, or root"
        )


def run_worker(job: MountJob, pipe: int, said: str) -> int:
    """The exit status of the worker; `said` is what one before it reported, or ''."""
    sys.setswitchinterval(SWITCH_S)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # an open local file is one of ours, too (WS-56)
    try:
        return uvloop.run(_serve(job, pipe, said))
    except (HyperClusterError, FatalError, OSError) as error:
        log.error("the mount of %s on %s can not go on: %s", job.workspace, job.directory, error)
        with contextlib.suppress(OSError):
            os.write(pipe, f"error: {error}".replace("\n", " ").encode() + b"\n")
        return CANNOT


def _tell(loop: asyncio.AbstractEventLoop, told: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended before the last thread
        loop.call_soon_threadsafe(told.set)


async def _catch_up(live: LiveWorkspace) -> None:
    """A worker that is started again has what was durable here, which may be less than what processes of this host were
    told: with a leader it mounts what is true now. Without one it mounts what it has, for reads go on (WS-3)."""
    try:
        async with asyncio.timeout(CATCH_UP_S):
            await live.barrier()
    except (OSError, TimeoutError) as error:
        log.warning("mounted as of log_index %d, perhaps behind: %s", live.view.applied_index, error or "no leader yet")


async def _fetch_patterns(client: Client, live: LiveWorkspace, name: str) -> bytes:
    return (await Workspace(client, live.workspace_id, name).settings()).local_patterns


async def _serve(job: MountJob, pipe: int, said: str) -> int:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    async with Client(job.settings, name=job.name) as client:
        known = bytes.fromhex(said.split()[1]) if said.startswith(MOUNTED.decode()) else b""
        workspace_id = known or (await client.open_workspace(job.workspace)).workspace_id
        async with LiveWorkspace(client, workspace_id, job.workspace, job.name, job.state / mounting.TREE) as live:
            check_user(live.view.uid)
            await _catch_up(live)
            patterns = PatternsInForce(
                job.state / mounting.LOCAL_PATTERNS, live.view, partial(_fetch_patterns, client, live, job.workspace)
            )
            with contextlib.suppress(TimeoutError):  # those of the last run are in force until then
                async with asyncio.timeout(CATCH_UP_S):
                    await patterns.learn()
            about: dict[str, object] = {"directory": job.directory, "pid": os.getpid(), "watchdog": os.getppid()}
            ground = Ground(str(job.state / mounting.LOCAL), (live.view.uid, live.view.gid))
            locks = ClusterLocks(client, live)
            front = Front(live, job.directory, locks=locks, about=about, ground=ground, patterns=patterns)
            following = asyncio.create_task(patterns.follow())
            session = Session(front, mount_options(job), partial(_tell, loop, told))
            front.invalidate = session.invalidate
            session.mount(job.directory)
            try:
                session.start()
                os.write(pipe, MOUNTED + f"{workspace_id.hex()} {live.view.applied_index}\n".encode())
                await told.wait()
            finally:
                session.unmount()
                following.cancel()
                await front.close()
    return 0
