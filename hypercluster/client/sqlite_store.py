"""A worker's copy of the workspace tree, in one SQLite file.

Owns: `SqliteStore`, a `state_machine.store.Store` with transactions that span many writes, and a small table of
the worker's own records (cursors, outbox positions) that move in the same transaction.
Never: imports anything of the servers; opens a file of a newer format.
Invariants: `write` is atomic; what was written before `commit_batch` returned survives a kill of the process, and
a power cut too when `sync=True`; a scan sees the state as it was at the call.
Threads: one owner. WAL mode, so that readers of the same file in another process do not wait for the writer.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final

from hypercluster.errors import DamagedError, WrongDirectoryError, check
from hypercluster.limits import MIB
from hypercluster.state_machine.store import Change, Family

FORMAT_VERSION: Final = 1
CACHE_KIB: Final = 32 * 1024
LOG_BYTES_MAX: Final = 64 * MIB  # the WAL file is cut back to this after a checkpoint
SCAN_PAIRS: Final = 512  # rows fetched at a time
TABLES: Final = tuple(f"family_{family.value}" for family in Family)
DELETES: Final = tuple(f"DELETE FROM {table} WHERE key = ?" for table in TABLES)
UPSERTS: Final = tuple(
    f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value" for table in TABLES
)


class SqliteStore:
    """`batch_writes` > 1 keeps a transaction open over so many writes; `commit_batch` ends it earlier."""

    def __init__(self, path: str, *, batch_writes: int = 1) -> None:
        check(batch_writes >= 1, "a transaction holds at least one write")
        self.path = path
        self._batch_writes = batch_writes
        self._pending_writes = 0
        self._scans_made = 0
        self._open = True
        self._connection = sqlite3.connect(path, isolation_level=None)
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise DamagedError(f"{path} does not open as a mirror: {error}. Remove it: the worker rebuilds it") from (
                error
            )
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=NORMAL")
        execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        execute(f"PRAGMA journal_size_limit={LOG_BYTES_MAX}")
        found = execute("PRAGMA user_version").fetchone()[0]
        if found > FORMAT_VERSION:
            raise WrongDirectoryError(
                f"{self.path} has format {found}, this version knows {FORMAT_VERSION}: install a newer version"
            )
        if found == FORMAT_VERSION:
            return
        execute("BEGIN IMMEDIATE")
        for table in TABLES:
            execute(f"CREATE TABLE IF NOT EXISTS {table} (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
        execute("CREATE TABLE IF NOT EXISTS record (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
        execute(f"PRAGMA user_version={FORMAT_VERSION}")
        execute("COMMIT")

    # --- Store ---------------------------------------------------------------------------------------

    def get(self, family: Family, key: bytes) -> bytes | None:
        row = self._connection.execute(f"SELECT value FROM {TABLES[family]} WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def scan(self, family: Family, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        order = "DESC" if reverse else "ASC"
        select = f"SELECT key, value FROM {TABLES[family]} WHERE key >= ? AND key < ? ORDER BY key {order}"
        pairs: list[tuple[bytes, bytes]] = self._connection.execute(
            f"{select} LIMIT {SCAN_PAIRS}", (start, end)
        ).fetchall()
        if len(pairs) < SCAN_PAIRS:
            return iter(pairs)
        # A cursor left open would show later writes of this connection, so a long scan reads from a copy on disk.
        self._scans_made += 1
        copy = f"temp.scan_{self._scans_made}"
        self._connection.execute(f"CREATE TEMP TABLE scan_{self._scans_made} (at INTEGER PRIMARY KEY, key, value)")
        self._connection.execute(f"INSERT INTO {copy} (key, value) {select}", (start, end))
        return self._read_copy(copy)

    def _read_copy(self, copy: str) -> Iterator[tuple[bytes, bytes]]:
        at = 0
        try:
            while True:
                rows = self._connection.execute(
                    f"SELECT at, key, value FROM {copy} WHERE at > ? ORDER BY at LIMIT {SCAN_PAIRS}", (at,)
                ).fetchall()
                for at, key, value in rows:  # noqa: B007 (the last row's place is where the next page starts)
                    yield key, value
                if len(rows) < SCAN_PAIRS:
                    return
        finally:
            if self._open:
                self._connection.execute(f"DROP TABLE {copy}")

    def write(self, changes: Iterable[Change]) -> None:
        self._begin()
        self._connection.execute("SAVEPOINT one_write")
        try:
            for family, key, value in changes:
                if value is None:
                    self._connection.execute(DELETES[family], (key,))
                else:
                    self._connection.execute(UPSERTS[family], (key, value))
        except BaseException:
            self._connection.execute("ROLLBACK TO one_write")
            self._connection.execute("RELEASE one_write")
            raise
        self._connection.execute("RELEASE one_write")
        self._pending_writes += 1
        if self._pending_writes >= self._batch_writes:
            self.commit_batch()

    # --- the worker's own records, and transactions ----------------------------------------------------

    def record(self, name: str) -> bytes | None:
        """A record of the worker itself, such as how far it has replayed."""
        row = self._connection.execute("SELECT value FROM record WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def put_record(self, name: str, value: bytes | None) -> None:
        """Moves with the open transaction; None removes. Put a cursor before the write that fills the batch."""
        self._begin()
        if value is None:
            self._connection.execute("DELETE FROM record WHERE name = ?", (name,))
        else:
            self._connection.execute("INSERT OR REPLACE INTO record VALUES (?, ?)", (name, value))

    def commit_batch(self, *, sync: bool = False) -> None:
        """Ends the open transaction, if any. With `sync` it survives a power cut when this returns."""
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
        self._pending_writes = 0
        if sync:
            self._sync_log()

    def roll_back(self) -> None:
        """Forgets the open transaction: writes and records since the last commit."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._pending_writes = 0

    def clear(self) -> None:
        """Removes every family's pairs and keeps the records: before a mirror is rebuilt."""
        self._begin()
        for table in TABLES:
            self._connection.execute(f"DELETE FROM {table}")
        self.commit_batch()

    def close(self) -> None:
        """Commits and closes. Idempotent."""
        if self._open:
            self.commit_batch()
            self._open = False
            self._connection.close()

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")

    def _sync_log(self) -> None:
        """In mode NORMAL SQLite syncs its log only before a checkpoint. Syncing the file ourselves adds what FULL
        would do, for this commit alone; SQLite holds no lock on the log file that closing could drop."""
        descriptor = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
