"""A directory in memory, where there is one: for tests that sync often and pull no plug.

A kill leaves the page cache as it is, so what such a test shows is the same on a disk, and it does not wait for one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_MEMORY = Path("/dev/shm")
FREE_BYTES_MIN = 256 << 20


@contextmanager
def memory_directory(otherwise: Path) -> Iterator[Path]:
    """A fresh directory, removed afterwards; `otherwise` where no memory file system has room."""
    if not os.access(IN_MEMORY, os.W_OK) or shutil.disk_usage(IN_MEMORY).free < FREE_BYTES_MIN:
        yield otherwise
        return
    with tempfile.TemporaryDirectory(prefix="hypercluster-test-", dir=IN_MEMORY) as name:
        yield Path(name)
