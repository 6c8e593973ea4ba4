"""Syncs of the log, measured.

Owns: nothing but the stopwatch around another `SyncRunner`.
"""

from __future__ import annotations

from collections.abc import Callable

from hypercluster.raft.engine import Clock, SyncRunner
from hypercluster.telemetry.metrics import Metrics
from hypercluster.telemetry.percentiles import Percentiles


class TimedSyncs:
    def __init__(self, inner: SyncRunner, clock: Clock, metrics: Metrics, times: Percentiles) -> None:
        self._inner = inner
        self._clock = clock
        self._metrics = metrics
        self._times = times

    def submit(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        took_s = 0.0

        def timed() -> None:
            nonlocal took_s
            began_s = self._clock.monotonic()
            job()
            took_s = self._clock.monotonic() - began_s

        def report(error: BaseException | None) -> None:
            self._metrics.fsync_seconds.observe(took_s)
            self._times.add(self._clock.monotonic(), int(took_s * 1e6))
            done(error)

        self._inner.submit(timed, report)
