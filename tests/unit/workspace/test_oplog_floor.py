"""Where a trimmed op log begins, and that nothing looks for it further down (WS-54, PERF-5)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hypercluster.state_machine.store import Family, Reader
from hypercluster.state_machine.workspace import oplog
from hypercluster.state_machine.workspace.oplog import log_floor, log_key, scan_log, scan_log_back, trim_log
from tests.unit.workspace import ops
from tests.unit.workspace.ops import ROOT
from tests.unit.workspace.site import Site


def write(site: Site) -> None:
    site.store.write(site.overlay.take_changes())


class Looks:
    """A reader that tells where its scans began and ended."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.bounds: list[tuple[bytes, bytes]] = []

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self._reader.get(family, key)

    def scan(self, family: Family, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        self.bounds.append((start, end))
        return self._reader.scan(family, start, end, reverse=reverse)


@pytest.mark.req("WS-54", "PERF-5")
def test_no_look_at_a_log_passes_over_what_was_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store keeps removed keys until it compacts them: of a log that is trimmed all the time, hundreds of thousands,
    and a scan from the beginning passes over each."""
    monkeypatch.setattr(oplog, "HAZARD_WINDOW_OPS", 1)
    monkeypatch.setattr(oplog, "TRIM_KEYS_MAX", 3)
    site = Site()
    site.found()
    for number in range(12):
        site.done(ops.create(ROOT, b"f%d" % number))
    for kept_from in (4, 7):
        assert trim_log(site.overlay, site.workspace_id, 8) == 3
        write(site)
        reader = Looks(site.store)
        assert log_floor(reader, site.workspace_id) == kept_from
        assert [part.first_index for part in scan_log(reader, site.workspace_id, 1)][:1] == [kept_from]
        assert [part.first_index for part in scan_log_back(reader, site.workspace_id)][-1] == kept_from
        assert all(start >= log_key(site.workspace_id, kept_from) for start, _ in reader.bounds)
    assert trim_log(site.overlay, site.workspace_id, 8) == 1
    write(site)
    assert log_floor(site.store, site.workspace_id) == 8
    assert trim_log(site.overlay, site.workspace_id, 8) == 0
