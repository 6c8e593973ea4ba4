"""The published vectors of the protocol, and traces of its reference implementations, byte for byte (NEG-7)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from hypercluster.history_sync.negentropy import Initiator, Responder, SealedItems
from hypercluster.history_sync.negentropy.wire import FINGERPRINT, Bound, Writer, decode, encode_varint

VECTORS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "negentropy_vectors.json").read_text(encoding="utf-8")
)
TIMESTAMPS: Final[dict[str, Callable[[int], int]]] = {
    "seq": lambda n: n + 1,
    "same": lambda _: 0,
    "dup": lambda n: n // 7,
}

Item = tuple[int, bytes]


def sides_of(trace: dict[str, Any]) -> tuple[list[Item], list[Item]]:
    client: list[Item] = []
    server: list[Item] = []
    for number in range(trace["n"]):
        item = TIMESTAMPS[trace["ts"]](number), hashlib.sha256(b"vec-%d" % number).digest()
        drawn = int.from_bytes(hashlib.sha256(b"side-%d" % number).digest()[:4], "big") / 2**32
        if drawn >= trace["p_client_only"]:
            server.append(item)
        if not trace["p_client_only"] <= drawn < trace["p_client_only"] + trace["p_server_only"]:
            client.append(item)
    return client, server


def reconciled(
    client: list[Item], server: list[Item], limits: list[int]
) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Messages, ids the server lacks, ids the client lacks."""
    initiator, responder = Initiator(SealedItems(client), limits[0]), Responder(SealedItems(server), limits[1])
    messages, have, need = [initiator.open()], list[bytes](), list[bytes]()
    while True:
        messages.append(responder.answer(messages[-1]))
        turn = initiator.answer(messages[-1])
        have += turn.have
        need += turn.need
        if turn.message is None:
            return messages, have, need
        messages.append(turn.message)


@pytest.mark.req("NEG-1", "NEG-7")
def test_varints_fingerprints_and_bounds_are_those_of_the_vectors() -> None:
    for number, encoded in VECTORS["varint"].items():
        assert encode_varint(int(number)).hex() == encoded
    assert encode_varint(2**64 - 1).hex() == VECTORS["varint_u64_max_spec_derived"]
    assert SealedItems([]).fingerprint(0, 0).hex() == VECTORS["fingerprint_empty_spec_derived"]
    for vector in VECTORS["fingerprint"]:
        items = SealedItems(enumerate(map(bytes.fromhex, vector["ids"])))
        assert items.fingerprint(0, len(items)).hex() == vector["fp"]
    for vector in VECTORS["bound"]:
        bound = Bound(vector["ts"] - vector["last_ts"], bytes.fromhex(vector["id"]))
        assert Writer().range(bound, FINGERPRINT, bytes(16)).hex() == vector["hex"] + "01" + "00" * 16
        assert next(decode(b"\x61" + bytes.fromhex(vector["hex"]) + b"\1" + bytes(16))).end == bound


@pytest.mark.req("NEG-7")
def test_another_version_is_answered_with_ours() -> None:
    vector = VECTORS["protoversion"]
    responder = Responder(SealedItems([(vector["item"][0], bytes.fromhex(vector["item"][1]))]))
    assert responder.answer(bytes.fromhex(vector["in"])).hex() == vector["out"]
    assert responder.answer(bytes.fromhex(vector["unknown_in"])).hex() == vector["unknown_out"]


@pytest.mark.req("NEG-1", "NEG-3", "NEG-7")
@pytest.mark.parametrize(
    "trace", VECTORS["traces"], ids=lambda t: f"{t['n']}-{t['ts']}-{t['p_server_only']}-{t['frame_limit'][0]}"
)
def test_a_session_is_that_of_the_reference(trace: dict[str, Any]) -> None:
    client, server = sides_of(trace)
    messages, have, need = reconciled(client, server, trace["frame_limit"])
    assert (len(client), len(server)) == (trace["client_size"], trace["server_size"])
    text = [message.hex() for message in messages]
    assert hashlib.sha256("\n".join(text).encode()).hexdigest() == trace["trace_sha256"]
    assert text == trace.get("trace", text)
    assert (len(have), len(need)) == (trace["have_reported"], trace["need_reported"])
    assert set(have) == {i for _, i in client} - {i for _, i in server}
    assert set(need) == {i for _, i in server} - {i for _, i in client}


@pytest.mark.req("NEG-1", "NEG-7")
@pytest.mark.parametrize("trace", VECTORS["traces_u64_cpp"], ids=lambda t: str(t["mode"]))
def test_timestamps_take_all_of_64_bits(trace: dict[str, Any]) -> None:
    sides = [
        [(int(timestamp), bytes.fromhex(item)) for timestamp, item in trace[side]] for side in ("client", "server")
    ]
    messages, _, _ = reconciled(sides[0], sides[1], [0, 0])
    assert [message.hex() for message in messages] == trace["trace"]
