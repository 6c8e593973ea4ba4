"""Every byte of a small log is damaged, one after the other, and the log is opened.

Never a wrong entry; never a durable entry silently missing; a torn tail only in the newest sync, where it can not be
told from a crash (CL-3).
"""

from __future__ import annotations

import contextlib
import random

import google_crc32c
import pytest

from hypercluster.errors import DamagedError
from hypercluster.limits import KIB
from hypercluster.storage.wal import Wal
from hypercluster.storage.wal.format import FormatError, decode_segment_header
from hypercluster.storage.wal.scan import scan_segment
from tests.crash.wal_model import DIRECTORY, Driver, Snapshot, describe, open_log, payload, read_back
from tests.simulation.sim_disk import SECTOR_BYTES, SimDisk

Image = dict[str, bytes]


class Built:
    """A log of three segments whose directory image can be opened again and again."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        disk = SimDisk(random.Random(seed))
        wal, _ = open_log(disk)
        driver = Driver(wal)
        driver.save_hard_state(1, "n1")
        driver.append(payload(rng, 20), payload(rng, 3000))
        driver.sync()
        driver.append(payload(rng, 50), payload(rng, 2500))
        driver.save_commit_index(2)
        driver.sync()
        driver.truncate_from(4)
        driver.save_hard_state(2, "n2")
        driver.append(payload(rng, 900), payload(rng, 1500))
        driver.sync()
        driver.append(*(payload(rng, 1700) for _ in range(4)))
        driver.save_commit_index(6)
        driver.sync()
        driver.compact_to(1)
        driver.append(payload(rng, 300))
        driver.sync()
        driver.save_hard_state(3, "n1")
        self.before_newest = driver.snapshots[driver.finished]
        driver.append(payload(rng, 200))
        driver.sync()
        self.after = driver.now
        self.image = image_of(disk)
        self.segments = sorted(name for name in self.image if name.endswith(".wal"))
        assert len(self.segments) == 3
        self.newest_group = groups_of(self.image[self.segments[-1]], len(self.segments))[-1]


def image_of(disk: SimDisk) -> Image:
    found: Image = {}
    for name in disk.listdir(DIRECTORY):
        file = disk.open(f"{DIRECTORY}/{name}")
        found[name] = file.pread(file.size(), 0)
        file.close()
    return found


def disk_of(image: Image) -> SimDisk:
    disk = SimDisk(random.Random(0))
    disk.mkdir(DIRECTORY)
    for name, content in image.items():
        disk.put(f"{DIRECTORY}/{name}", content)
    return disk


def groups_of(content: bytes, number: int) -> list[range]:
    groups: list[range] = []
    scan_segment(content, number, lambda group, _records: groups.append(range(group.offset, group.end)))
    return groups


def open_image(image: Image) -> tuple[Snapshot, Wal, SimDisk] | None:
    """None: refused as damaged, and nothing was changed."""
    disk = disk_of(image)
    try:
        wal, _ = open_log(disk)
    except DamagedError as error:
        refusal = str(error)
    else:
        return read_back(wal), wal, disk
    assert DIRECTORY in refusal
    assert "hypercluster wal inspect" in refusal and "hypercluster node rejoin" in refusal
    assert image_of(disk) == image, "a refused log was changed"
    return None


def judge(built: Built, image: Image, name: str, offset: int, what: str) -> str:
    """The one rule of this file. Returns what open made of the damage."""
    outcome = open_image(image)
    if outcome is None:
        return "refused"
    found = outcome[0]
    if found.same_log(built.after):
        return "whole"
    in_newest = name == built.segments[-1] and offset in built.newest_group
    assert in_newest and found.same_log(built.before_newest), f"{what} {name} at {offset}: opened as {describe(found)}"
    return "torn"


def flipped(image: Image, name: str, offset: int, bit: int) -> Image:
    content = bytearray(image[name])
    content[offset] ^= 1 << bit
    return {**image, name: bytes(content)}


def bits_of(offset: int, count: int) -> list[int]:
    return [(offset * 5 + 3 * at) % 8 for at in range(count)]


def flip_everywhere(built: Built, bits: int, only: range | None = None) -> dict[str, int]:
    outcomes = {"refused": 0, "whole": 0, "torn": 0}
    for name in built.segments:
        for offset in only or range(len(built.image[name])):
            for bit in bits_of(offset, bits):
                outcomes[judge(built, flipped(built.image, name, offset, bit), name, offset, f"bit {bit} of")] += 1
    return outcomes


@pytest.mark.req("CL-3")
def test_a_bit_flipped_at_every_byte() -> None:
    built = Built(11)
    outcomes = flip_everywhere(built, 1)
    print(outcomes)
    assert outcomes["torn"] == len(built.newest_group)
    assert outcomes["refused"] > 10 * KIB, "most of this log is durable content"


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.req("CL-3")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_bit(seed: int) -> None:
    built = Built(seed)
    outcomes = flip_everywhere(built, 8)
    assert outcomes["torn"] == 8 * len(built.newest_group)


@pytest.mark.req("CL-3")
def test_a_file_cut_at_every_byte() -> None:
    """A segment has its full length before it has a name: a shorter one is always damage, never a torn write."""
    built = Built(12)
    for name in built.segments:
        for size in range(len(built.image[name])):
            image = {**built.image, name: built.image[name][:size]}
            assert open_image(image) is None, f"{name} cut to {size} bytes was opened"


@pytest.mark.req("CL-3")
def test_every_sector_zeroed_or_overwritten() -> None:
    built = Built(13)
    rng = random.Random(13)
    for name in built.segments:
        content = built.image[name]
        for at in range(0, len(content), SECTOR_BYTES):
            sector = range(at, at + SECTOR_BYTES)
            for filling in (bytes(SECTOR_BYTES), rng.randbytes(SECTOR_BYTES), content[:SECTOR_BYTES]):
                image = {**built.image, name: content[:at] + filling + content[at + SECTOR_BYTES :]}
                hit = next((offset for offset in sector if offset in built.newest_group), at)
                judge(built, image, name, hit, "sector")


@pytest.mark.req("CL-3")
def test_a_missing_segment_is_damage() -> None:
    built = Built(14)
    for name in built.segments:
        image = {other: content for other, content in built.image.items() if other != name}
        assert open_image(image) is None, f"opened without {name}"
    assert open_image({name: content for name, content in built.image.items() if not name.endswith(".wal")}) is None


@pytest.mark.req("CL-3")
def test_a_segment_whose_seal_never_was_written_still_has_to_reach_its_successor() -> None:
    """The power was cut between naming the new segment and sealing the old one."""
    built = Built(19)
    for at, name in enumerate(built.segments[:-1]):
        content = built.image[name]
        *_, last, seal = groups_of(content, at + 1)
        unsealed = {**built.image, name: content[: seal.start] + bytes(len(seal)) + content[seal.stop :]}
        outcome = open_image(unsealed)
        assert outcome is not None and outcome[0].same_log(built.after)
        for offset in range(last.start, last.stop, 7):
            assert open_image(flipped(unsealed, name, offset, 2)) is None
        cut = {**unsealed, name: content[: last.start] + bytes(len(content) - last.start)}
        assert open_image(cut) is None, "a group that its successor counts on is missing"


@pytest.mark.req("CL-3")
def test_a_lost_replacement_at_the_end_of_a_segment_does_not_bring_the_old_entry_back() -> None:
    """Only the joint with the next segment tells: indexes, terms and hard state fit without the lost group."""
    disk = SimDisk(random.Random(0))
    driver = Driver(open_log(disk)[0])
    driver.append(payload(random.Random(1), 2500), payload(random.Random(2), 1500))
    driver.sync()
    driver.truncate_from(2)
    driver.append(b"replacement")
    driver.sync()
    driver.append(payload(random.Random(3), 2500))  # no longer fits the segment
    driver.sync()
    image = image_of(disk)
    name = f"{1:016d}.wal"
    groups = groups_of(image[name], 1)
    assert len(groups) == 4, "head, two syncs, seal"
    for keep in range(1, len(groups)):
        content = image[name][: groups[keep].start]
        outcome = open_image({**image, name: content + bytes(len(image[name]) - len(content))})
        assert (outcome is None) == (keep < len(groups) - 1), "everything but the seal must be there"
        assert outcome is None or outcome[0].same_log(driver.now)


@pytest.mark.req("CL-3")
def test_segments_swapped_or_repeated_are_damage() -> None:
    built = Built(15)
    first, second, third = built.segments
    for name, other in ((first, second), (second, third), (third, second), (third, first)):
        assert open_image({**built.image, name: built.image[other]}) is None


@pytest.mark.req("CL-3")
def test_stale_groups_are_never_taken_for_live_ones() -> None:
    """Bytes of this log's own past, put where the next group would be: of the same segment and of another one."""
    built = Built(16)
    newest = built.segments[-1]
    content = built.image[newest]
    end = built.newest_group.stop
    for source in built.segments:
        groups = groups_of(built.image[source], int(source.removesuffix(".wal")))
        assert groups
        for one in groups:  # the seal of an older segment too
            stale = built.image[source][one.start : one.stop]
            if end + len(stale) > len(content):
                continue
            image = {**built.image, newest: content[:end] + stale + content[end + len(stale) :]}
            outcome = open_image(image)
            assert outcome is not None
            found, wal, disk = outcome
            assert found.same_log(built.after)
            wal.close()
            assert not image_of(disk)[newest][end + SECTOR_BYTES :].strip(b"\0"), "the tail was not cut"


@pytest.mark.req("CL-3")
def test_a_group_of_another_past_does_not_continue_the_chain() -> None:
    """Same segment, same offset, and it verifies by itself: only the chain tells that it belongs to another past."""
    images: list[Image] = []
    for content in (b"one", b"two"):
        disk = SimDisk(random.Random(0))
        driver = Driver(open_log(disk)[0])
        driver.append(content)
        driver.sync()
        driver.append(b"follows " + content)
        driver.sync()
        images.append(image_of(disk))
    name = f"{1:016d}.wal"
    first, second = (groups_of(image[name], 1)[-1] for image in images)
    assert first == second
    spliced = images[0][name][: first.start] + images[1][name][first.start :]
    assert open_image({**images[0], name: spliced}) is None


@pytest.mark.req("CL-3")
def test_damage_in_the_head_of_the_newest_segment_is_never_a_torn_tail() -> None:
    """Nothing stands behind it that could witness: the head was synced before the segment had a name."""
    disk = SimDisk(random.Random(0))
    open_log(disk)
    image = image_of(disk)
    name = f"{1:016d}.wal"
    head = groups_of(image[name], 1)
    assert len(head) == 1
    for offset in range(head[0].stop):
        assert open_image(flipped(image, name, offset, offset % 8)) is None


@pytest.mark.req("CL-3")
def test_damage_while_reading_back_is_never_returned() -> None:
    built = Built(17)
    for name in built.segments[:-1]:
        for offset in range(512, len(built.image[name]), 37):
            opened = open_image(built.image)
            assert opened is not None
            _, wal, disk = opened
            disk.flip_bit(f"{DIRECTORY}/{name}", offset, 3)
            for at, entry in enumerate(built.after.entries):
                with contextlib.suppress(DamagedError):
                    assert wal.entry(entry.index) == entry, f"entry {at} was read wrong"


def test_a_newer_format_is_refused_and_says_so() -> None:
    built = Built(18)
    name = built.segments[0]
    content = bytearray(built.image[name])
    content[8] = 9
    content[508:512] = google_crc32c.value(bytes(content[:508])).to_bytes(4, "little")
    with pytest.raises(FormatError, match="format version 9"):
        decode_segment_header(bytes(content))
    assert open_image({**built.image, name: bytes(content)}) is None
