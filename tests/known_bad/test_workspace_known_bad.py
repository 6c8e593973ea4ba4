"""Broken builds of the workspace, each of which the property tests must catch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hypercluster.errors import DamagedError, InvariantError
from hypercluster.state_machine.workspace import (
    content,
    extents,
    judging,
    names,
    oplog,
    recent,
    reclaim,
    records,
    renaming,
    turn,
    writing,
)
from hypercluster.state_machine.workspace.extents import Extent
from tests.properties import test_workspace_content as content_tests
from tests.properties import test_workspace_model as model_tests

Break = Callable[[pytest.MonkeyPatch], None]


def directories_move_below_themselves(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(renaming, "_ancestry_errno", lambda *_: 0)


def directories_keep_their_stamps(patch: pytest.MonkeyPatch) -> None:
    def change(turn: turn.Turn, directory: records.Inode, entries: int, subdirectories: int) -> None:
        directory.entry_count += entries
        directory.nlink += subdirectories
        turn.touch(directory)

    patch.setattr(names, "change_directory", change)


def orphans_stay_in_the_tree(patch: pytest.MonkeyPatch) -> None:
    real = turn.Turn.orphan

    def orphan(self: turn.Turn, inode: records.Inode) -> None:
        real(self, inode)
        inode.orphaned_ns = 1

    patch.setattr(turn.Turn, "orphan", orphan)


def removed_entries_stay_in_the_root(patch: pytest.MonkeyPatch) -> None:
    def delete(self: turn.Turn, directory: bytes, name: bytes, inode: records.Inode) -> None:
        self.remove(self.header.workspace_id + records.ENTRY + directory + name)

    patch.setattr(turn.Turn, "delete_entry", delete)


def remainders_begin_at_the_wrong_byte(patch: pytest.MonkeyPatch) -> None:
    def after(extent: Extent, at: int) -> Extent:
        return Extent(at, extent.length - (at - extent.offset), extent.chunk_offset, extent.chunk_hash)

    patch.setattr(content, "after", after)
    patch.setattr(extents, "after", after)


def neighbours_of_one_chunk_always_merge(patch: pytest.MonkeyPatch) -> None:
    def continues(left: Extent, right: Extent) -> bool:
        return left.end == right.offset and left.chunk_hash == right.chunk_hash

    patch.setattr(content, "continues", continues)
    patch.setattr(extents, "continues", continues)


def coalesced_bytes_are_out_of_order(patch: pytest.MonkeyPatch) -> None:
    real = recent.recent_bytes
    seen: list[bytes] = []

    def bytes_of(*arguments: object) -> bytes | None:
        found = real(*arguments)  # type: ignore[arg-type]
        if found is not None:
            seen.append(found)
            return seen[len(seen) // 2] if len(seen[len(seen) // 2]) == len(found) else found
        return found

    patch.setattr(writing, "recent_bytes", bytes_of)


def references_are_not_ended(patch: pytest.MonkeyPatch) -> None:
    real = turn.Turn.count_chunk
    patch.setattr(turn.Turn, "count_chunk", lambda self, found, change: real(self, found, max(change, 0)))


def cut_pages_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(turn, "queue_pages", lambda *_: None)


def reclaiming_keeps_references(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reclaim, "page_extents", lambda _: [])


def every_page_hashes_its_offset_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(content, "inner_digest", lambda level, count, hashes: hashes[:32])


def the_size_is_not_stored(patch: pytest.MonkeyPatch) -> None:
    real = records.Header.encode

    def encode(self: records.Header) -> bytes:
        kept, self.leaf_count = self.leaf_count, max(self.leaf_count - 1, 1)
        try:
            return real(self)
        finally:
            self.leaf_count = kept

    patch.setattr(records.Header, "encode", encode)


def the_log_has_no_roots(patch: pytest.MonkeyPatch) -> None:
    real = oplog.encode_log_record
    patch.setattr(
        judging,
        "encode_log_record",
        lambda ctx, out, reserved: real(ctx, out._replace(root=bytes(32)), reserved),
    )


def a_base_index_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(judging, "_judge_base", lambda *_: None)


BROKEN = [
    directories_move_below_themselves,
    directories_keep_their_stamps,
    orphans_stay_in_the_tree,
    removed_entries_stay_in_the_root,
    remainders_begin_at_the_wrong_byte,
    neighbours_of_one_chunk_always_merge,
    coalesced_bytes_are_out_of_order,
    references_are_not_ended,
    cut_pages_are_forgotten,
    reclaiming_keeps_references,
    every_page_hashes_its_offset_only,
    the_size_is_not_stored,
    the_log_has_no_roots,
    a_base_index_is_not_looked_at,
]


def run_the_property_tests() -> None:
    for seed in range(4):
        model_tests.walk_through(seed, entries=120)
        model_tests.test_a_base_index_is_refused_exactly_when_the_node_changed_since(seed)
        content_tests.test_a_file_of_many_small_pieces_reads_like_a_bytearray(seed)
    content_tests.test_cutting_a_huge_file_is_bounded_and_its_pages_are_emptied_by_later_commands()


@pytest.mark.req("WS-13", "WS-20", "WS-21", "WS-28", "WS-35")
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_workspace_is_caught(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises((AssertionError, DamagedError, InvariantError, KeyError, IndexError)):
        run_the_property_tests()
