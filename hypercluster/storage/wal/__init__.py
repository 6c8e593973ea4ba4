"""The write-ahead log. See types.py for the contract and DESIGN.md for the format."""

from hypercluster.storage.wal.log import Wal
from hypercluster.storage.wal.types import HardState, LogEntry, OpenReport, SyncJob, WriteAheadLog

__all__ = ["HardState", "LogEntry", "OpenReport", "SyncJob", "Wal", "WriteAheadLog"]
