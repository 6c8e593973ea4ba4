"""What a node that must stop leaves for its operator.

Owns: the way out of an exception in apply, as an exact command (CL-16). Never: decides that a node stops.
"""

from __future__ import annotations

from pathlib import Path

from hypercluster.errors import ApplyFailedError
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.quarantine import note_failure


def way_out(error: BaseException, data_directory: Path) -> str:
    """After an exception in apply, the exact command (CL-16). Notes durably how far apply had come."""
    if not isinstance(error, ApplyFailedError) or not error.index:
        return ""
    directory = str(data_directory.resolve())
    note_failure(PosixDisk(), directory, error.index)
    which = f"{error.index}" if error.ordinal is None else f"{error.index} {error.ordinal}"
    return (
        "\nThe entry is not applied here. Install a release that applies it, if no node has applied it; or, with every "
        f"node stopped, run on each of them `hypercluster wal quarantine DATA_DIR {which}` (here DATA_DIR is "
        f"{directory}): that command is then refused as INTERNAL"
    )
