"""SQLite with its dot-file locks, from four processes on two mounts, while leaders and workers are killed (WS-64).

    python -m tests.mount.torture.databases --seconds 120 --seed 1

It needs an SQLite whose dot-file locks roll back what a failed process left: those before 3.45 leave such a journal
alone, on every file system, and the next writer then damages the database. `pip install pysqlite3-binary` has a newer
one; the run begins with a look at that, on a local disk.

Holds when PRAGMA integrity_check says ok on every mount, the sum of all accounts is what it was, every acknowledged
transfer is in the database exactly once, and one that failed at most once. A lock whose taker never learned that it had
it is taken away while nobody has the database open, as an administrator would.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event as EventType
from pathlib import Path

try:
    import pysqlite3 as sqlite3
except ImportError:
    import sqlite3  # type: ignore[no-redef]

from tests.mount.mounts import within
from tests.mount.torture.fleet import Fleet, Killer, arguments, run

MOUNTS = 2
WRITERS = 4
ACCOUNTS = 50
EACH = 1_000
QUIET_S = 8.0  # without a commit of anybody: the lock may be nobody's
CLOSED_S = 90.0  # a system call may wait for the cluster
BUSY_MS = 500

Report = tuple[int, list[int], list[int]]  # writer, acknowledged numbers, numbers whose commit failed


@contextlib.contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{path}?vfs=unix-dotfile", uri=True, isolation_level=None, timeout=BUSY_MS / 1e3)
    try:
        yield connection
    finally:
        connection.close()


def prepare(path: Path) -> None:
    with database(path) as db:
        db.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL)")
        db.execute("CREATE TABLE transfers (writer INTEGER, number INTEGER, note TEXT)")
        db.executemany("INSERT INTO accounts VALUES (?, ?)", [(i, EACH) for i in range(ACCOUNTS)])


def transfer(db: sqlite3.Connection, writer: int, number: int, rng: random.Random) -> None:
    giver, taker = rng.sample(range(ACCOUNTS), 2)
    db.execute("UPDATE accounts SET amount = amount - 1 WHERE id = ?", (giver,))
    db.execute("UPDATE accounts SET amount = amount + 1 WHERE id = ?", (taker,))
    note = "x" * rng.randint(10, 3_000)
    db.execute("INSERT INTO transfers VALUES (?, ?, ?)", (writer, number, note))


def work(
    writer: int,
    path: Path,
    seed: int,
    end_s: float,
    go: EventType,
    closed: EventType,
    commits: Queue[int],
    reports: Queue[Report],
) -> None:
    """`closed` says that this process does not have the database open, and will not open it while `go` is not set."""
    rng = random.Random(seed)
    acknowledged: list[int] = []
    failed: list[int] = []
    number = 0
    while time.monotonic() < end_s:
        closed.clear()
        if not go.is_set():
            closed.set()
            go.wait(1.0)
            continue
        try:
            with database(path) as db:
                while go.is_set() and time.monotonic() < end_s:
                    db.execute("BEGIN IMMEDIATE")
                    number += 1
                    try:
                        transfer(db, writer, number, rng)
                        db.execute("COMMIT")
                    except sqlite3.Error:
                        failed.append(number)
                        raise
                    acknowledged.append(number)
                    commits.put(writer)
                    time.sleep(rng.random() * 0.02)
        except sqlite3.Error:
            time.sleep(0.02)
    closed.set()
    reports.put((writer, acknowledged, failed))


def take_away(lock: Path, go: EventType, closed: Sequence[EventType]) -> int:
    """How many locks, 0 or 1: only while every process has the database closed."""
    go.clear()
    try:
        until_s = time.monotonic() + CLOSED_S
        if not all(each.wait(max(0.0, until_s - time.monotonic())) for each in closed):
            return 0
        with contextlib.suppress(OSError):
            lock.rmdir()
            return 1
        return 0
    finally:
        go.set()


def rolls_back() -> bool:
    """Whether this SQLite undoes what a process left that was killed in a transaction, under dot-file locks."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "accounts.db"
        prepare(path)
        with database(path) as db:
            db.execute("BEGIN")
            db.executemany("INSERT INTO transfers VALUES (0, ?, ?)", [(n, "x" * 500) for n in range(2_000)])
            db.execute("COMMIT")
        child = os.fork()
        if child == 0:
            with database(path) as db:
                db.execute("PRAGMA cache_size = 5")  # so that changed pages reach the file before the commit
                db.execute("BEGIN IMMEDIATE")
                db.execute("UPDATE transfers SET note = 'changed' || note")
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        (path.parent / "accounts.db.lock").rmdir()
        try:
            with database(path) as db:
                left: int = db.execute("SELECT count(*) FROM transfers WHERE note LIKE 'changed%'").fetchone()[0]
        except sqlite3.DatabaseError:
            return False
        return left == 0


def judge(path: Path, reports: list[Report]) -> list[str]:
    problems: list[str] = []
    with database(path) as db:
        said = [row[0] for row in db.execute("PRAGMA integrity_check")]
        if said != ["ok"]:
            problems.append(f"{path}: integrity_check says {said[:5]}")
        total = db.execute("SELECT sum(amount) FROM accounts").fetchone()[0]
        if total != ACCOUNTS * EACH:
            problems.append(f"{path}: the accounts hold {total}")
        for writer, acknowledged, failed in reports:
            rows = db.execute("SELECT number FROM transfers WHERE writer = ? ORDER BY rowid", (writer,)).fetchall()
            there = [row[0] for row in rows]
            if there != sorted(set(there)):
                problems.append(f"{path}: writer {writer}: twice or out of order")
            if set(acknowledged) - set(there):
                problems.append(f"{path}: writer {writer}: lost {sorted(set(acknowledged) - set(there))[:10]}")
            if set(there) - set(acknowledged) - set(failed):
                problems.append(f"{path}: writer {writer}: never written but there")
    return problems


def main() -> None:
    given = arguments(__doc__ or "", kill_every_s=10.0)
    if not rolls_back():
        print(f"not run: SQLite {sqlite3.sqlite_version} does not roll back under dot-file locks")
        sys.exit(2)

    def body(fleet: Fleet, rng: random.Random) -> list[str]:
        paths = [path / "accounts.db" for path in fleet.everywhere("databases")]
        prepare(paths[0])
        for path in paths:
            within(lambda path=path: path.stat().st_size > 0, f"{path} is there")  # type: ignore[misc]
        fleet.settle()
        context = get_context("fork")
        reports: Queue[Report] = context.Queue()
        commits: Queue[int] = context.Queue()
        go = context.Event()
        go.set()
        closed = [context.Event() for _ in range(WRITERS)]
        end_s = time.monotonic() + given.seconds
        writers = [
            context.Process(
                target=work, args=(w, paths[w % MOUNTS], rng.getrandbits(32), end_s, go, closed[w], commits, reports)
            )
            for w in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        taken = 0
        with Killer(fleet, rng, given.kill_every_s) as killer:
            heard_s = time.monotonic()
            while time.monotonic() < end_s:
                with contextlib.suppress(Exception):
                    commits.get(timeout=0.5)
                    heard_s = time.monotonic()
                if time.monotonic() - heard_s > QUIET_S:
                    taken += take_away(paths[0].parent / "accounts.db.lock", go, closed)
                    heard_s = time.monotonic()
            told = [reports.get(timeout=120) for _ in writers]
        while not commits.empty():
            commits.get()
        for writer in writers:
            writer.join()
        fleet.settle()
        with contextlib.suppress(OSError):
            (paths[0].parent / "accounts.db.lock").rmdir()
        fleet.settle()
        done = sum(len(acknowledged) for _, acknowledged, _ in told)
        unknown = sum(len(failed) for _, _, failed in told)
        print(
            f"{done} transfers acknowledged, {unknown} failed, {taken} locks of nobody taken away; "
            f"{killer.leaders} leaders and {killer.workers} workers killed"
        )
        problems = killer.problems
        for path in paths:
            problems += judge(path, told)
        return problems + ([] if done else ["nothing was transferred"])

    run(given, MOUNTS, body)


if __name__ == "__main__":
    main()
