"""The preloaded shim acts on what the product calls, and on nothing else: syncs, writes, renames, the wall clock."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.shim import control
from chaos.shim.control import NoShimError, Page, Rule, ShimPage

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shim")


@pytest.fixture(scope="session")
def library(cache: Path) -> Path:
    try:
        return control.build(cache)
    except NoShimError as error:
        pytest.skip(f"not run: {error}")


@pytest.fixture
def page(tmp_path: Path) -> Iterator[ShimPage]:
    below = tmp_path / "below"
    below.mkdir()
    (tmp_path / "beside").mkdir()
    made = ShimPage(tmp_path / "page", below)
    yield made
    made.close()


def run(library: Path, page: ShimPage, script: str, *arguments: str | Path) -> Any:
    """What a process under the shim prints, as JSON. The directory of the page comes first among its arguments."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(page.path.parent), *map(str, arguments)],
        env={**os.environ, **control.environment(library, page)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_layout_is_that_of_the_compiler(library: Path, cache: Path) -> None:
    said = subprocess.run([control.build_layout(cache)], capture_output=True, text=True, check=True).stdout
    theirs = {name: int(value) for name, value in (line.split() for line in said.splitlines())}
    ours = {"size": ctypes.sizeof(Page), "magic_number": control.PAGE_MAGIC}
    for name, kind, *_ in Page._fields_:
        offset = getattr(Page, name).offset
        if issubclass(kind, ctypes.Structure):
            ours |= {f"{name}.{part}": offset + getattr(kind, part).offset for part, *_ in kind._fields_}
        else:
            ours[name] = offset
    assert ours == theirs
    assert ctypes.sizeof(Page) <= control.PAGE_BYTES


def test_a_rule_is_one_word_and_bad_ones_are_refused() -> None:
    assert Rule().word() == 0
    assert Rule(delay_ms=5, share=0).word() == 0
    assert Rule(delay_ms=1.5, errno=5, share=0.25).word() == 1500 | 5 << 32 | 250_000 << 44
    for bad, field in (
        (Rule(delay_ms=-1), "delay_ms"),
        (Rule(errno=5_000), "errno"),
        (Rule(errno=5, share=2), "share"),
    ):
        with pytest.raises(ValueError, match=field):
            bad.word()


@pytest.mark.req("CH-4")
def test_syncs_fail_below_the_prefix_only(library: Path, page: ShimPage) -> None:
    page.sync(Rule(errno=errno.EIO))
    script = """
        import json, os, sys
        def outcome(call, path):
            file = os.open(path, os.O_RDONLY | os.O_DIRECTORY if os.path.isdir(path) else os.O_RDWR | os.O_CREAT)
            try:
                call(file)
            except OSError as error:
                return error.errno
            return 0
        top = sys.argv[1]
        print(json.dumps([outcome(os.fdatasync, top + "/below/file"), outcome(os.fsync, top + "/below/file"),
                          outcome(os.fsync, top + "/below"), outcome(os.fdatasync, top + "/beside/file"),
                          outcome(os.fsync, top)]))
    """
    assert run(library, page, script) == [errno.EIO, errno.EIO, errno.EIO, 0, 0]
    assert page.hits() == {"sync": 3, "write": 0, "rename": 0}
    page.heal()
    assert run(library, page, script) == [0, 0, 0, 0, 0]
    assert page.attached == 2


@pytest.mark.req("CH-4")
def test_a_running_process_feels_a_rule_in_every_thread_and_its_end(library: Path, page: ShimPage) -> None:
    """Steered while it runs: it says one line a second of nothing but what it measured."""
    script = """
        import os, sys, threading, time
        def sync(path, found):
            file = os.open(path, os.O_RDWR | os.O_CREAT)
            os.pwrite(file, b"x", 0)
            began = time.monotonic()
            os.fdatasync(file)
            found.append(time.monotonic() - began)
        for _ in sys.stdin:
            found = []
            threads = [threading.Thread(target=sync, args=(f"{sys.argv[1]}/below/{n}", found)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            print(min(found), flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(page.path.parent)],
        env={**os.environ, **control.environment(library, page)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> float:
            print("go", file=process.stdin, flush=True)
            assert process.stdout is not None
            return float(process.stdout.readline())

        before = ask()
        assert page.is_mapped()
        page.sync(Rule(delay_ms=150))
        slow = ask()
        page.heal()
        after = ask()
        process.stdin.close()
    assert slow >= 0.15 > max(before, after), (before, slow, after)
    assert page.hits()["sync"] == 4
    assert not page.is_mapped(), "by a process that runs"


@pytest.mark.req("CH-4")
def test_a_share_strikes_its_share_and_the_same_calls_again(library: Path, tmp_path: Path) -> None:
    script = """
        import json, os, sys
        file = os.open(sys.argv[1] + "/below/file", os.O_RDWR | os.O_CREAT)
        struck = []
        for number in range(200):
            try:
                os.fdatasync(file)
            except OSError:
                struck.append(number)
        print(json.dumps(struck))
    """
    outcomes = []
    for seed in (7, 7, 8):
        print(f"seed {seed}")
        (tmp_path / "below").mkdir(exist_ok=True)
        page = ShimPage(tmp_path / "page", tmp_path / "below", seed)
        page.sync(Rule(errno=errno.EIO, share=0.25))
        outcomes.append(run(library, page, script))
        page.close()
    assert 25 < len(outcomes[0]) < 75
    assert outcomes[0] == outcomes[1] != outcomes[2]


@pytest.mark.req("CH-4")
def test_writes_and_renames_fail_and_leave_nothing(library: Path, page: ShimPage) -> None:
    page.write(Rule(errno=errno.ENOSPC))
    page.rename(Rule(errno=errno.EIO))
    script = """
        import json, os, sys
        top = sys.argv[1]
        found = []
        def outcome(call, *arguments):
            try:
                call(*arguments)
            except OSError as error:
                found.append(error.errno)
            else:
                found.append(0)
        below = os.open(top + "/below/file", os.O_RDWR | os.O_CREAT)
        beside = os.open(top + "/beside/file", os.O_RDWR | os.O_CREAT)
        for file in (below, beside):
            outcome(os.write, file, b"content")
            outcome(os.pwrite, file, b"content", 0)
        outcome(os.rename, top + "/below/file", top + "/below/renamed")
        outcome(os.rename, top + "/beside/file", top + "/below/renamed")
        os.chdir(top + "/below")
        outcome(os.rename, "file", "renamed")
        outcome(os.rename, top + "/beside/file", top + "/beside/renamed")
        print(json.dumps([*found, os.path.getsize(top + "/below/file"), sorted(os.listdir(top + "/below"))]))
    """
    full, bad = errno.ENOSPC, errno.EIO
    assert run(library, page, script) == [full, full, 0, 0, bad, bad, bad, 0, 0, ["file"]]


@pytest.mark.req("CH-4")
def test_what_the_product_is_made_of_syncs_through_the_shim(library: Path, page: ShimPage) -> None:
    """RocksDB from C++, the log's file from Python: both on the product's own threads."""
    page.sync(Rule(delay_ms=1))
    script = """
        import asyncio, json, os, sys
        from hypercluster.state_machine.store import Change, Family
        from hypercluster.storage.disk import PosixDisk
        from hypercluster.storage.rocks import RocksStore
        from hypercluster.storage.runner import ThreadRunner
        from hypercluster.storage.wal import HardState, LogEntry, Wal
        from hypercluster.values import Digest, Index, NodeId, Term
        top, what = sys.argv[1], sys.argv[2]

        def rocks():
            store = RocksStore(top + "/below/state")
            store.commit(Index(1), Term(1), Digest(bytes(32)), [Change(Family.HUB, b"key", b"value")])
            store.flush()
            store.close()

        async def log():
            wal, _ = Wal.open(PosixDisk(), top + "/below/wal", segment_bytes=65536, reserve_bytes=65536)
            wal.append([LogEntry(Index(1), Term(1), b"payload")])
            done, runner = asyncio.Event(), ThreadRunner(asyncio.get_running_loop(), "wal-sync")
            job = wal.take_job()
            runner.submit(job.run, lambda error: (wal.finish(job), done.set()))
            await done.wait()
            runner.close()
            wal.close()

        rocks() if what == "rocks" else asyncio.run(log())
        print("0")
    """
    run(library, page, script, "rocks")
    of_rocks = page.hits()["sync"]
    run(library, page, script, "log")
    of_log = page.hits()["sync"] - of_rocks
    print(f"syncs: RocksDB {of_rocks}, the log {of_log}")
    assert of_rocks > 3
    assert of_log > 2


@pytest.mark.req("CH-4")
def test_rocksdb_meets_the_error(library: Path, page: ShimPage) -> None:
    page.sync(Rule(errno=errno.EIO))
    script = """
        import json, sys
        from hypercluster.errors import FatalError
        from hypercluster.state_machine.store import Change, Family
        from hypercluster.storage.rocks import RocksStore
        from hypercluster.values import Digest, Index, Term
        try:
            RocksStore(sys.argv[1] + "/below/state")
        except FatalError as error:
            print(json.dumps(str(error)))
    """
    assert "error" in run(library, page, script).lower()
    assert page.hits()["sync"] > 0


CLOCKS = """
    import datetime, json, sys, time
    print(json.dumps({
        "time_ns": time.time_ns(), "time": time.time(), "now": datetime.datetime.now().timestamp(),
        "realtime": time.clock_gettime(time.CLOCK_REALTIME), "tai": time.clock_gettime(time.CLOCK_TAI),
        "monotonic": time.monotonic(), "boottime": time.clock_gettime(time.CLOCK_BOOTTIME)}))
"""


@pytest.mark.req("CH-4")
@pytest.mark.parametrize("offset_s", [600, -600])
def test_the_wall_clock_jumps_and_the_others_do_not(library: Path, page: ShimPage, offset_s: int) -> None:
    page.clock(offset_s * 1e3)
    assert page.offset_ms() == offset_s * 1e3
    shown = run(library, page, CLOCKS)
    wall, monotonic = time.time(), time.monotonic()
    boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
    for name in ("time", "now", "realtime"):
        assert abs(shown[name] - wall - offset_s) < DEADLINE_S, name
    assert abs(shown["time_ns"] / 1e9 - wall - offset_s) < DEADLINE_S
    assert abs(shown["tai"] - time.clock_gettime(time.CLOCK_TAI) - offset_s) < DEADLINE_S
    assert abs(shown["monotonic"] - monotonic) < DEADLINE_S
    assert abs(shown["boottime"] - boottime) < DEADLINE_S
    page.heal()
    assert page.active() == ""
    assert abs(run(library, page, CLOCKS)["time"] - time.time()) < DEADLINE_S


@pytest.mark.req("CH-4")
def test_the_wall_clock_runs_fast_and_slow(library: Path, page: ShimPage) -> None:
    script = """
        import json, time
        def stand():
            return time.time_ns(), time.monotonic_ns()
        first = stand()
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            last = stand()
        print(json.dumps((last[0] - first[0]) / (last[1] - first[1])))
    """
    for rate in (1.25, 0.8):
        page.clock(0, rate)
        assert abs(run(library, page, script) - rate) < 0.02
        assert page.offset_ms() * (rate - 1) > 0
    with pytest.raises(ValueError, match="rate"):
        page.clock(0, 0)


@pytest.mark.req("CH-4")
@pytest.mark.parametrize("offset_s", [3600, -3600])
def test_a_wait_until_a_wall_clock_time_takes_as_long_as_it_should(
    library: Path, page: ShimPage, offset_s: int
) -> None:
    """With the clock an hour fast not an hour, with one an hour slow not nothing, again and again."""
    page.clock(offset_s * 1e3)
    script = """
        import ctypes, json, time
        libc = ctypes.CDLL(None, use_errno=True)
        class Time(ctypes.Structure):
            _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))
        def until(wait_ms):
            wanted = time.time_ns() + wait_ms * 1_000_000
            return Time(wanted // 1_000_000_000, wanted % 1_000_000_000)
        def took(wait):
            began = time.monotonic()
            wait()
            return time.monotonic() - began
        room = lambda: (ctypes.c_char * 256)()
        def semaphore():
            made = room()
            libc.sem_init(made, 0, 0)
            libc.sem_timedwait(made, ctypes.byref(until(100)))
        def condition():
            made, mutex = room(), room()
            libc.pthread_mutex_init(mutex, None)
            libc.pthread_cond_init(made, None)
            libc.pthread_mutex_lock(mutex)
            libc.pthread_cond_timedwait(made, mutex, ctypes.byref(until(100)))
        def futex():
            word = ctypes.c_int(0)
            FUTEX_WAIT_BITSET_PRIVATE_REALTIME = 9 | 128 | 256
            libc.syscall(ctypes.c_long(202), ctypes.byref(word), ctypes.c_long(FUTEX_WAIT_BITSET_PRIVATE_REALTIME),
                         ctypes.c_long(0), ctypes.byref(until(100)), None, ctypes.c_long(-1))
        import platform
        waits = [semaphore, condition] + ([futex] if platform.machine() == "x86_64" else [])
        print(json.dumps([took(wait) for wait in waits]))
    """
    for took_s in run(library, page, script):
        assert 0.09 < took_s < 10


def test_without_its_page_a_process_does_not_run(library: Path, page: ShimPage, tmp_path: Path) -> None:
    """A fault that is silently absent would pass for one that was survived."""
    for words, path in (("No such file", tmp_path / "nowhere"), ("another layout", tmp_path / "empty")):
        (tmp_path / "empty").write_bytes(bytes(4096))
        environment = {**os.environ, "LD_PRELOAD": str(library), "CHAOS_PAGE": str(path)}
        done = subprocess.run(["true"], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 125
        assert words in done.stderr
    assert page.attached == 0


def test_a_library_is_built_once_for_its_source(library: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_ns = library.stat().st_mtime_ns
    assert control.build(cache) == library
    assert library.stat().st_mtime_ns == made_ns
    monkeypatch.setenv("PATH", str(cache / "nothing"))
    with pytest.raises(NoShimError, match="there is no gcc"):
        control.build(cache / "other")
