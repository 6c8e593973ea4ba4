"""From a configuration to the settings of the parts of a node.

Owns: which setting goes where. Never: a default (config/settings.py has them), or anything but conversion.
"""

from __future__ import annotations

from hypercluster.config import Config
from hypercluster.node.proposer import ProposerSettings
from hypercluster.node.rate_limit import RateSettings
from hypercluster.node.retention import RetentionSettings
from hypercluster.raft.settings import EngineSettings
from hypercluster.storage.archive.archive import ArchiveSettings


def engine_settings(config: Config) -> EngineSettings:
    raft = config.raft
    return EngineSettings(
        heartbeat_ms=raft.heartbeat_ms,
        election_min_ms=raft.election_min_ms,
        election_max_ms=raft.election_max_ms,
        fallback_ms=raft.election_min_ms * 5 // 4,
        clock_skew_max_ms=raft.clock_skew_max_ms,
        log_keep_entries=raft.log_keep_entries,
        checkpoint_every_entries=raft.checkpoint_every_entries,
    )


def retention_settings(config: Config) -> RetentionSettings:
    found = config.retention
    return RetentionSettings(
        found.snapshot_every_s,
        found.snapshots_kept,
        found.oplog_keep_s,
        found.oplog_keep_ops,
        found.oplog_bytes_max,
    )


def proposer_settings(config: Config) -> ProposerSettings:
    batch, rate = config.batch, config.rate
    return ProposerSettings(
        window_ms=batch.window_ms,
        ops_max=batch.ops_max,
        bytes_max=batch.bytes_max,
        rate=RateSettings(rate.ops_per_s, rate.bytes_per_s, rate.burst_ops, quarantine_ms=rate.quarantine_ms),
    )


def archive_settings(config: Config) -> ArchiveSettings:
    return ArchiveSettings(config.retention.archive_keep_days, config.retention.archive_bytes_max)
