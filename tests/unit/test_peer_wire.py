"""How frames travel together: the hand-written encoding against the protobuf library, and its bounds (SEC-3)."""

from __future__ import annotations

from collections import deque

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster.errors import MalformedError
from hypercluster.limits import PEER_FRAME_BYTES_MAX, PEER_MESSAGE_FRAMES_MAX
from hypercluster.pb.v1 import peer_pb2
from hypercluster.raft import peer_wire

FRAMES = st.lists(st.one_of(st.binary(max_size=300), st.integers(0, 70_000).map(bytes)), min_size=1, max_size=40)


@given(FRAMES)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_whatever_is_queued_comes_out_in_order_and_as_protobuf_reads_it(frames: list[bytes]) -> None:
    queue = deque(frames)
    out: list[bytes] = []
    while queue:
        message, size = peer_wire.take(queue)
        part = peer_wire.split(message)
        assert list(peer_pb2.PeerMessage.FromString(message).frames) == part
        assert peer_pb2.PeerMessage(frames=part).SerializeToString() == message
        assert sum(map(len, part)) == size
        assert len(part) == 1 or size <= peer_wire.JOIN_BYTES_MAX
        out += part
    assert out == frames


def test_one_is_a_message_of_one_frame() -> None:
    for size in (0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, PEER_FRAME_BYTES_MAX):
        assert peer_wire.split(peer_wire.one(bytes(size))) == [bytes(size)]


def test_tiny_frames_are_bounded_by_their_number() -> None:
    queue = deque([b""] * 3_000)
    counts = []
    while queue:
        counts.append(len(peer_wire.split(peer_wire.take(queue)[0])))
    assert counts == [PEER_MESSAGE_FRAMES_MAX, PEER_MESSAGE_FRAMES_MAX, 3_000 - 2 * PEER_MESSAGE_FRAMES_MAX]


def test_without_joining_each_frame_travels_alone() -> None:
    queue = deque([b"a", b"b"])
    assert peer_wire.take(queue, join=False)[0] == peer_wire.one(b"a")


@pytest.mark.req("SEC-3")
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.sampled_from([b"\x0a", b"\x00", b"\x01x", b"\x80", b"\xff", b"\x0a\x02ab", b"\x12\x01c"])).map(
            b"".join
        ),
    )
)
@settings(derandomize=True, max_examples=1_000, deadline=None)
def test_any_bytes_are_read_as_protobuf_reads_them_or_refused(message: bytes) -> None:
    try:
        frames = peer_wire.split(message)
    except MalformedError:
        return
    try:
        parsed = peer_pb2.PeerMessage.FromString(message)
    except DecodeError as error:
        raise AssertionError("accepted what protobuf refuses") from error
    assert list(parsed.frames) == frames


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\x0a", "cut short"),
        (b"\x0a\x80", "cut short"),
        (b"\x0a\x02a", "cut short"),
        (b"\x0a\xff\xff\xff\xff\x07", "length of more than 4 bytes"),
        (b"\x0a\x81\x80\x80\x04", "peer frame: 8388609 bytes, at most 8388608"),
        (b"\x12\x00", "unknown field"),
        (b"\x0a\x00" * (PEER_MESSAGE_FRAMES_MAX + 1), "more than 1024 frames"),
        (bytes(peer_wire.PEER_MESSAGE_BYTES_MAX + 1), "at most"),
    ],
)
def test_bounds_are_named(message: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        peer_wire.split(message)
