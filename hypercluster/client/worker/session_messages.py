"""What a worker says of itself to the node it has a session with (WS-50).

Owns: the hello, the report of progress, and the measure of how hard this host has it.
Never: the stream; whatever can not be measured here is left out of the report, never guessed.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypercluster.client.worker.state import WorkerStatus
from hypercluster.pb.v1 import workspace_pb2

PROTOCOL = "hypersync/1"
FEATURES = ("inline", "pressure")
WORDS_MAX = 500
PERMILLE_MAX = 1_000_000  # a load that would not fit the field says no more


def hello(status: WorkerStatus, workspace_id: bytes, instance: bytes) -> workspace_pb2.WorkerHello:
    return workspace_pb2.WorkerHello(
        protocol=PROTOCOL,
        workspace_id=workspace_id,
        worker=status.worker,
        mount_instance=instance,
        applied_index=status.applied_index,
        features=FEATURES,
    )


def applied(status: WorkerStatus, workspace_id: bytes, directory: Path) -> workspace_pb2.WorkerApplied:
    message = workspace_pb2.WorkerApplied(
        applied_index=status.applied_index,
        root=bytes.fromhex(status.root),
        workspace_id=workspace_id,
        pressure=pressure(directory),
    )
    failure = status.failure
    if failure is not None:
        message.read_only = True
        message.error_log_index = failure.log_index
        message.error_errno = failure.errno
        message.error_message = failure.message[:WORDS_MAX]
    return message


def pressure(directory: Path) -> workspace_pb2.Pressure:
    """Of this host, and of the file system that `directory` lies on."""
    found = workspace_pb2.Pressure()
    try:
        found.cpu_permille = min(PERMILLE_MAX, int(os.getloadavg()[0] * 1000 / (os.cpu_count() or 1)))
        found.memory_permille = _memory_permille(Path("/proc/meminfo").read_text(encoding="ascii"))
    except (OSError, ValueError, KeyError):
        pass  # not a Linux host
    try:
        disk = os.statvfs(directory)
    except OSError:
        return found
    found.disk_free_bytes = disk.f_bavail * disk.f_frsize
    found.disk_total_bytes = disk.f_blocks * disk.f_frsize
    return found


def _memory_permille(text: str) -> int:
    """Of /proc/meminfo: what is not available to a new process."""
    numbers = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if line.endswith(" kB")}
    return 1000 - numbers["MemAvailable"] * 1000 // numbers["MemTotal"]
