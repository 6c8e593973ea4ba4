"""The framing of entries: round trips, bounds, and whatever bytes may come."""

from __future__ import annotations

import contextlib
import random

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster.errors import InvariantError, MalformedError, TooLargeError
from hypercluster.limits import ENTRY_BYTES_MAX
from hypercluster.log import entry as framing
from hypercluster.log.entry import (
    CODEC_PLAIN,
    CODEC_ZSTD,
    DecodedEntry,
    EntryType,
    decode_entry,
    encode_batch,
    encode_config,
    encode_no_op,
    entry_type,
    stamp_end,
)
from hypercluster.pb.v1.command_pb2 import Command
from hypercluster.pb.v1.workspace_command_pb2 import ChunkPut
from tests.fakes.commands import STAMP_NS, client, entry, group, hub_set, submit

WORDS = b'{"phase":"build","owner":"agent-17"}'


def batch(payload: bytes, *, runs: int = 4) -> DecodedEntry:
    messages = [submit(client(n), 1, [hub_set(b"key/%d" % c, payload) for c in range(8)]) for n in range(runs)]
    return entry([group(message) for message in messages])


def chunk_put(content: bytes) -> bytes:
    return Command(chunk_put=ChunkPut(hash=blake3(content).digest(), content=content)).SerializeToString()


@pytest.mark.req("D-12")
@pytest.mark.parametrize("payload", [b"1", WORDS])
def test_what_the_leader_built_is_what_a_follower_reads(payload: bytes) -> None:
    built = batch(payload)
    read = decode_entry(encode_batch(built))
    assert read == built
    assert [g.submit for g in read.groups] == [g.submit for g in built.groups]
    chunk = entry([group(submit(client(1), 1, [chunk_put(b"x" * 9)], workspace=bytes(16)))])
    assert decode_entry(encode_batch(chunk)) == chunk


@pytest.mark.req("D-13")
def test_compression_is_used_where_it_pays_and_only_there() -> None:
    words = encode_batch(batch(WORDS))
    assert words[1] == CODEC_ZSTD
    assert len(words) * 10 < sum(len(g.submit) for g in batch(WORDS).groups) * 9
    noise = random.Random(5).randbytes(4096)
    random_values = entry([group(submit(client(1), 1, [chunk_put(noise)], workspace=bytes(16)))])
    assert encode_batch(random_values)[1] == CODEC_PLAIN
    small = entry([group(submit(client(1), 1, [hub_set(b"k", WORDS)]))])
    assert encode_batch(small)[1] == CODEC_PLAIN


@pytest.mark.req("D-13")
def test_random_values_are_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def compress(self, body: bytes) -> bytes:
            raise AssertionError(f"{len(body)} bytes of noise were compressed")

    monkeypatch.setattr(framing, "_compressor", Refusing())
    noise = random.Random(6).randbytes(60_000)
    encode_batch(entry([group(submit(client(1), 1, [chunk_put(noise)], workspace=bytes(16)))]))
    with pytest.raises(AssertionError):
        encode_batch(batch(WORDS))


@pytest.mark.req("D-13")
def test_a_frame_that_saves_less_than_a_tenth_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "_looks_compressible", lambda _: True)
    noise = random.Random(7).randbytes(7_600) + bytes(400)  # saves a twentieth
    message = submit(client(1), 1, [chunk_put(noise)], workspace=bytes(16))
    assert encode_batch(entry([group(message)]))[1] == CODEC_PLAIN


@pytest.mark.req("D-5")
@pytest.mark.parametrize("payload", [b"1", WORDS])
def test_the_next_stamp_is_read_from_the_head(payload: bytes) -> None:
    built = batch(payload)
    assert stamp_end(encode_batch(built)) == STAMP_NS + built.command_count == STAMP_NS + 32
    assert stamp_end(encode_no_op()) == 0
    assert stamp_end(encode_config(b"")) == 0


def test_entries_without_commands() -> None:
    assert decode_entry(encode_no_op()) == DecodedEntry(EntryType.NO_OP)
    assert decode_entry(encode_config(b"abc")) == DecodedEntry(EntryType.CONFIG, config=b"abc")
    assert entry_type(encode_config(b"")) is EntryType.CONFIG


@pytest.mark.req("SEC-3")
@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "missing"),
        (b"\x10", "codec"),
        (b"\x77\x00", "entry type 77"),
        (b"\x10\x09" + bytes(40), "codec 9"),
        (b"\x10\x00" + bytes(10), "head"),
        (b"\x10\x00" + bytes(40), "begin with"),
        (b"\x00\x00x", "no-op"),
        (b"\x11\x01x", "decompress"),
    ],
)
def test_bytes_that_are_no_entry_are_named(payload: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        decode_entry(payload)


@pytest.mark.req("SEC-3")
def test_nothing_unfolds_past_the_limit() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(ENTRY_BYTES_MAX + 1))
    with pytest.raises(TooLargeError, match="ENTRY_BYTES_MAX"):
        decode_entry(b"\x11\x01" + bomb)
    with pytest.raises(TooLargeError, match="ENTRY_BYTES_MAX"):
        decode_entry(bytes((0x11, 0)) + bytes(ENTRY_BYTES_MAX))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    with pytest.raises(MalformedError, match="unfolded size"):
        decode_entry(b"\x11\x01" + unsized)
    with pytest.raises(InvariantError):
        encode_batch(batch(b'"' + b"x" * 260_000 + b'"', runs=2))


@pytest.mark.req("D-5")
def test_a_batch_can_not_say_its_stamp_twice() -> None:
    payload = bytearray(encode_batch(batch(b"1", runs=1)))
    payload[1] = CODEC_PLAIN
    forged = bytes(payload) + b"\x09" + (STAMP_NS + 5).to_bytes(8, "little")
    with pytest.raises(MalformedError, match="repeats"):
        decode_entry(forged)
    wrong_count = bytes(payload) + b"\x18\x07"
    with pytest.raises(MalformedError):
        decode_entry(wrong_count)


@pytest.mark.req("SEC-3")
@settings(derandomize=True, max_examples=400, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", b"\x10\x00", b"\x10\x01", b"\x11\x01", b"\x00\x00"]))
def test_no_bytes_raise_anything_else(tail: bytes, head: bytes) -> None:
    for read in (decode_entry, stamp_end):
        with contextlib.suppress(MalformedError, TooLargeError):
            read(head + tail)


@pytest.mark.req("SEC-3")
@settings(derandomize=True, max_examples=400, deadline=None)
@given(st.sampled_from([b"1", WORDS]), st.data())
def test_no_flipped_byte_raises_anything_else(payload: bytes, data: st.DataObject) -> None:
    whole = bytearray(encode_batch(batch(payload, runs=2)))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(MalformedError, TooLargeError):
        decode_entry(cut)
