"""What the chunk store costs: bytes written for each byte of content, and the time to open a million chunks."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from blake3 import blake3

from hypercluster.limits import CHUNK_BYTES_MAX
from hypercluster.storage.chunk_store import ChunkStore
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.runner import InlineRunner
from hypercluster.values import ChunkHash

CONTENT_BYTES = 48 << 20
WRITTEN_SHARE_MAX = 1.05  # the log writes content once, and PERF-6 allows 2.2 in all
MILLION = 1_000_000
OPEN_S_MAX = 2.0
MAKE_MILLION = """
import os, sys
from blake3 import blake3
from hypercluster.storage.chunk_store import ChunkStore
from hypercluster.storage.disk import PosixDisk
from hypercluster.storage.runner import InlineRunner
store = ChunkStore(sys.argv[1], PosixDisk(), InlineRunner())
for number in range(int(sys.argv[2])):
    content = b"%d" % number
    store.put(blake3(content).digest(), content)
    if number % 20_000 == 0:
        store.sync()
store.sync()
os._exit(0)  # as good as a kill: nothing is closed or flushed
"""


def bytes_written() -> int:
    """What this process gave to write and pwrite."""
    found = re.search(r"^wchar: (\d+)$", Path("/proc/self/io").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.mark.req("PERF-6")
@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs the kernel's count of bytes written")
def test_content_is_written_about_once(tmp_path: Path) -> None:
    store = ChunkStore(str(tmp_path / "chunks"), PosixDisk(), InlineRunner())
    rng, before = random.Random(1), bytes_written()
    for _ in range(CONTENT_BYTES // CHUNK_BYTES_MAX):
        content = rng.randbytes(CHUNK_BYTES_MAX)
        store.put(ChunkHash(blake3(content).digest()), content)
    store.close()
    share = (bytes_written() - before) / CONTENT_BYTES
    assert 1 <= share <= WRITTEN_SHARE_MAX, f"{share:.3f} bytes written for each byte of content"


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.req("PERF-5", "CL-8")
def test_a_million_chunks_open_fast_after_a_kill(tmp_path: Path) -> None:
    path = str(tmp_path / "chunks")
    subprocess.run([sys.executable, "-c", MAKE_MILLION, path, str(MILLION)], check=True)
    begun = time.monotonic()
    store = ChunkStore(path, PosixDisk(), InlineRunner())
    open_s = time.monotonic() - begun
    assert store.count == MILLION
    assert open_s < OPEN_S_MAX, f"opening took {open_s:.2f} s"
    assert store.get(ChunkHash(blake3(b"%d" % (MILLION - 1)).digest())) == b"%d" % (MILLION - 1)
    store.close()
