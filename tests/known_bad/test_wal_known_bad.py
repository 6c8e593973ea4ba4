"""Builds of the log that are wrong on purpose. Each must be caught by a test that passes on the real one elsewhere.

The patches live here alone: no setting of the product can turn a safety rule off (CH-10).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hypercluster.errors import FatalError
from hypercluster.limits import KIB
from hypercluster.storage.disk import Disk, File
from hypercluster.storage.wal import log, reader, replay, scan
from hypercluster.storage.wal.format import (
    GROUP_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    FormatError,
    GroupHeader,
    Record,
    RecordKind,
    decode_group_header,
    decode_record,
    record,
)
from hypercluster.storage.wal.state import LogState
from hypercluster.storage.wal.writer import SegmentWriter, WritePosition
from hypercluster.values import Index, Term
from tests.crash.test_wal_crash import (
    test_a_group_is_all_or_nothing as all_or_nothing,
)
from tests.crash.test_wal_crash import (
    test_power_cut_before_every_operation as cut_everywhere,
)
from tests.crash.test_wal_crash import (
    test_power_cut_when_a_sync_has_several_groups as several_groups,
)
from tests.properties.test_wal_damage import Built, flip_everywhere
from tests.properties.test_wal_damage import (
    test_damage_while_reading_back_is_never_returned as damage_while_reading,
)
from tests.simulation.sim_disk import SimDisk
from tests.unit.test_wal_faults import (
    test_a_failed_sync_is_never_retried_and_never_believed as failed_sync,
)
from tests.unit.test_wal_faults import (
    test_every_write_is_synced_before_it_counts_and_every_name_before_it_is_used as order,
)
from tests.unit.test_wal_faults import (
    test_on_a_full_disk_only_appends_are_refused_and_room_brings_them_back as full_disk,
)

Patch = Callable[[pytest.MonkeyPatch], None]
Shown = Callable[[], object]


def cut_anywhere() -> None:
    for seed in range(3):
        cut_everywhere(seed)


def cut_several_groups() -> None:
    with pytest.MonkeyPatch.context() as patch:
        several_groups(patch)


def flip_durable_bytes() -> None:
    flip_everywhere(Built(11), 1, range(512, 6 * KIB, 3))


def no_sync(patch: pytest.MonkeyPatch) -> None:
    def pretend(self: SegmentWriter) -> None:
        self.position.durable_offset = self.position.offset

    patch.setattr(SegmentWriter, "_sync", pretend)


def lax_record(buffer: bytes, offset: int, end: int) -> Record:
    """decode_record without its CRC."""
    try:
        return decode_record(buffer, offset, end)
    except FormatError as error:
        if "CRC" not in str(error):
            raise
        size = int.from_bytes(buffer[offset + 4 : offset + 8], "little")
        start = offset + RECORD_HEADER_BYTES
        term, index = (int.from_bytes(buffer[at : at + 8], "little") for at in (offset + 12, offset + 20))
        try:
            kind = RecordKind(buffer[offset + 8])
        except ValueError as error:
            raise FormatError(str(error)) from None
        return record(kind, Index(index), Term(term), bytes(buffer[start : start + size]), buffer[offset + 10])


def no_crc(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scan, "check_group_body", lambda _header, _buffer: None)
    patch.setattr(scan, "decode_record", lax_record)


def no_crc_on_reading(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reader, "decode_record", lax_record)


def torn_tail_in_the_middle(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scan, "witness", lambda _content, _seed, _offset: None)


def tail_not_cut(patch: pytest.MonkeyPatch) -> None:
    def keep_tail(disk: Disk, file: File, result: replay.Replayed) -> tuple[WritePosition, int]:
        assert result.tail is not None
        tail = result.tail
        file.fdatasync()
        end = tail.end
        position = WritePosition(
            tail.header.number, tail.seed, tail.header.capacity_bytes, end, tail.chain, tail.group_number, end
        )
        return position, tail.damage.bytes_total if tail.damage else 0

    patch.setattr("hypercluster.storage.wal.opening.mend", keep_tail)


def believes_the_page_cache(patch: pytest.MonkeyPatch) -> None:
    real = replay.mend

    def without_rewriting(disk: Disk, file: File, result: replay.Replayed) -> tuple[WritePosition, int]:
        assert result.tail is not None
        result.resync_from = result.tail.end
        return real(disk, file, result)

    patch.setattr("hypercluster.storage.wal.opening.mend", without_rewriting)


def names_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimDisk, "fsync_dir", lambda _self, _path: None)


def hard_state_stays_in_old_segments(patch: pytest.MonkeyPatch) -> None:
    real = LogState.head_records
    patch.setattr(LogState, "head_records", lambda self: real(self)[1:])


def appends_into_the_reserve(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(log.Wal, "_require_room", lambda _self, _bytes: None)


def half_groups_count(patch: pytest.MonkeyPatch) -> None:
    """Takes the records of a torn group that verify by themselves."""

    def some(group: GroupHeader, content: bytes) -> list[Record]:
        found: list[Record] = []
        at = group.offset + GROUP_HEADER_BYTES
        try:
            for _ in range(group.record_count):
                found.append(decode_record(content, at, min(group.end, len(content))))
                at += found[-1].size_bytes
        except FormatError:
            pass
        return found

    patch.setattr(scan, "check_group_body", lambda _header, _buffer: None)
    patch.setattr(scan, "_records", some)


def marks_run_ahead(patch: pytest.MonkeyPatch) -> None:
    """Groups say that they themselves are durable: a torn write then looks like damage, and the node never starts."""
    real = decode_group_header

    def ahead(seed: int, buffer: bytes, offset: int) -> GroupHeader:
        group = real(seed, buffer, offset)
        return GroupHeader(
            group.crc,
            group.body_bytes,
            group.body_crc,
            group.number,
            group.offset,
            group.end,
            group.durable_index,
            group.record_count,
            group.previous,
        )

    patch.setattr(scan, "decode_group_header", ahead)


def name_of(one: Callable[..., object]) -> str:
    return one.__name__


CASES: list[tuple[Patch, Shown]] = [
    (no_sync, cut_anywhere),
    (no_sync, order),
    (no_crc, flip_durable_bytes),
    (no_crc_on_reading, damage_while_reading),
    (torn_tail_in_the_middle, flip_durable_bytes),
    (tail_not_cut, cut_anywhere),
    (believes_the_page_cache, failed_sync),
    (names_are_not_synced, cut_anywhere),
    (hard_state_stays_in_old_segments, cut_anywhere),
    (appends_into_the_reserve, full_disk),
    (half_groups_count, all_or_nothing),
    (marks_run_ahead, cut_several_groups),
]


@pytest.mark.req("CL-2", "CL-3", "CL-4", "CH-10")
@pytest.mark.parametrize(("patch", "shown"), CASES, ids=name_of)
def test_a_wrong_build_is_caught(patch: Patch, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    patch(monkeypatch)
    with pytest.raises((AssertionError, FatalError, pytest.fail.Exception)) as caught:
        shown()
    print(f"{name_of(patch)}: {caught.value}"[:300])
