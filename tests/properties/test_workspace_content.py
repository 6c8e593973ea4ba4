"""Extents of one file against a bytearray, and its content digest against a second, from-scratch computation (WS-13).

HYPERCLUSTER_SEED=n replays one seed; a failure names it.
"""

from __future__ import annotations

import itertools
import os
import random

import pytest
from blake3 import blake3

from hypercluster.state_machine.workspace import reclaim
from hypercluster.state_machine.workspace.content import PAGE_EXTENTS, ContentReader
from hypercluster.state_machine.workspace.extents import Extent
from hypercluster.state_machine.workspace.queries import list_extents
from tests.properties.test_workspace_model import check_references
from tests.unit.workspace import ops
from tests.unit.workspace.site import Mirror, Site, first_difference

SEEDS = [int(os.environ["HYPERCLUSTER_SEED"])] if "HYPERCLUSTER_SEED" in os.environ else range(8)


def digest_from_scratch(extents: list[Extent], size: int) -> bytes:
    """Written from the text of content.py: the smallest root that covers the size, pages of at most 64 extents."""
    level = 0
    while 16**level < size:
        level += 1

    def subtree(found: list[Extent], base: int, level: int) -> bytes:
        if not found:
            return bytes(32)
        if len(found) <= 64:
            packed = b"".join(
                extent.offset.to_bytes(8, "big")
                + extent.length.to_bytes(4, "big")
                + extent.chunk_offset.to_bytes(4, "big")
                + extent.chunk_hash
                for extent in found
            )
            return blake3(b"\x11" + packed).digest()
        span = 16 ** (level - 1)
        kids = b"".join(
            subtree([e for e in found if start <= e.offset < start + span], start, level - 1)
            for start in range(base, base + 16 * span, span)
        )
        return blake3(b"\x12" + bytes([level]) + len(found).to_bytes(8, "big") + kids).digest()

    return subtree(extents, 0, level)


def extents_of(site: Site, inode_id: bytes) -> list[Extent]:
    return list(list_extents(site.store, site.workspace_id, inode_id, 0, 1_000_000).extents)


def check_file(site: Site, inode_id: bytes, expected: bytes, words: str) -> None:
    inode = site.inode(inode_id)
    assert first_difference(site.content(inode_id), expected) is None, words
    extents = extents_of(site, inode_id)
    assert inode.content_digest == digest_from_scratch(extents, inode.size), words
    for left, right in itertools.pairwise(extents):
        together = left.chunk_hash == right.chunk_hash and left.chunk_offset + left.length == right.chunk_offset
        assert left.end <= right.offset and not (left.end == right.offset and together), words
    reader = ContentReader(site.store, site.workspace_id, inode)
    assert first_difference(list(reader.backwards()), extents[::-1]) is None, words


@pytest.mark.req("WS-13", "WS-35", "D-4")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_file_of_many_small_pieces_reads_like_a_bytearray(seed: int) -> None:
    draw = random.Random(seed)
    site = Site(seed=seed)
    site.found()
    inode_id = site.file(b"f")
    mirror = Mirror(site)
    expected = bytearray()
    top = draw.choice([300, 9_000, 70_000])
    deepest = 0
    for number in range(1_200):
        if draw.random() < 0.006:
            size = draw.choice([0, draw.randint(0, len(expected)), len(expected) + draw.randint(0, 300_000)])
            del expected[size:]
            expected.extend(bytes(size - len(expected)))
            command = ops.truncate(inode_id, size)
        else:
            offset = draw.randint(0, top) if draw.random() < 0.9 else len(expected)
            content = draw.randbytes(draw.choice([1, 2, 7, 30, 30, draw.choice([400, 3_000])]))
            expected.extend(bytes(max(0, offset - len(expected))))
            expected[offset : offset + len(content)] = content
            command = ops.write(inode_id, offset, content)
        site.done(command)
        assert len(site.last_changes) < 1_000
        deepest = max(deepest, site.inode(inode_id).extent_count)
        if draw.random() < 0.05:
            site.restart()
        if number % 150 == 149:
            check_file(site, inode_id, bytes(expected), f"seed {seed}, op {number}")
            mirror.follow(site, restart=draw.random() < 0.5)
            check_references(site)
    assert top < 9_000 or deepest > PAGE_EXTENTS
    site.done(ops.truncate(inode_id, 0))
    for _ in range(2_000):
        if site.header.reclaim_first == site.header.reclaim_next:
            break
        site.done(ops.sync(inode_id))
    check_references(site)
    mirror.follow(site)


@pytest.mark.req("WS-13", "WS-24", "D-4")
def test_cutting_a_huge_file_is_bounded_and_its_pages_are_emptied_by_later_commands() -> None:
    site = Site()
    site.found()
    inode_id = site.file(b"huge")
    other = site.file(b"other")
    content = b"x" * 4_096
    site.done(ops.chunk_put(content))
    piece = (blake3(content).digest(), 0, 4_096)
    # Pieces that do not continue each other: one extent each, 64 a command.
    for _ in range(60):
        site.done(ops.write_pieces(inode_id, 0, [(piece[0], 1, 4_000)] * 64, at_end=True))
    assert site.inode(inode_id).extent_count == 3_840
    for size in (15_000_000, 9_999_999, 1_000_001, 1_000_001, 65_537, 0):
        site.done(ops.truncate(inode_id, size))
        assert len(site.last_changes) < 1_000
        check_file(site, inode_id, site.content(inode_id), f"size {size}")
        extents = extents_of(site, inode_id)
        assert not extents or extents[-1].end == size
    assert site.inode(inode_id).extent_count == 0
    waiting = site.header.reclaim_next - site.header.reclaim_first
    assert waiting > 0
    commands = 0
    while site.header.reclaim_first < site.header.reclaim_next and commands < 10_000:
        site.done(ops.append(other, b"."))
        assert len(site.last_changes) < 1_000
        commands += 1
    assert waiting // reclaim.PAGES_A_COMMAND <= commands < 10_000
    check_references(site)


@pytest.mark.req("WS-35")
def test_the_digest_is_a_function_of_size_and_extents_whatever_the_history() -> None:
    contents = [bytes([number]) * 100 for number in range(200)]
    orders = [list(range(200)), list(range(199, -1, -1)), random.Random(1).sample(range(200), 200)]
    digests = set()
    for order in orders:
        site = Site()
        site.found()
        inode_id = site.file(b"f")
        site.done(ops.truncate(inode_id, 10_000_000))
        for number in order:
            # Gaps keep the extents apart and from being coalesced.
            site.done(ops.write(inode_id, number * 150, contents[number]))
        site.done(ops.truncate(inode_id, 200 * 150))
        inode = site.inode(inode_id)
        assert inode.extent_count == 200
        digests.add(inode.content_digest)
        check_file(site, inode_id, site.content(inode_id), f"order {order[:3]}")
    assert len(digests) == 1
