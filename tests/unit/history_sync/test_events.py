"""What an event is, and whose keys and signatures count (HIS-1, HIS-2)."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hypercluster.credentials.authors import check_author_key, check_signature
from hypercluster.errors import DepsTooLongError, InvalidSignatureError, MalformedError, TooLargeError
from hypercluster.limits import HISTORY_DEPS_MAX, HISTORY_EVENT_BYTES_MAX
from hypercluster.pb.v1 import history_pb2 as pb
from hypercluster.state_machine.history.events import read_event
from tests.unit.history_sync.chains import Author

P = 2**255 - 19


@pytest.mark.req("HIS-1")
def test_the_hash_is_that_of_the_signed_bytes_as_received() -> None:
    (event,) = Author(1).chain(1)
    assert event.hash == hashlib.sha256(event.signed).digest()
    check_signature(event.author, event.signed, event.signature)
    hinted = Author(1).event(1, bytes(32), b"x", hint_ms=1 << 62)
    assert hinted.seq == event.seq and hinted.hash != event.hash


@pytest.mark.req("HIS-1", "HIS-2")
def test_an_event_over_the_cap_fails_with_the_cap_before_its_signature_is_looked_at() -> None:
    body = pb.HistoryEventBody(author=bytes(32), seq=1, prev=bytes(32), deps=[bytes(32)] * (HISTORY_DEPS_MAX + 1))
    with pytest.raises(DepsTooLongError, match="HISTORY_DEPS_MAX is 64"):
        read_event(body.SerializeToString(), bytes(64))
    with pytest.raises(TooLargeError, match="HISTORY_EVENT_BYTES_MAX"):
        read_event(bytes(HISTORY_EVENT_BYTES_MAX + 1), bytes(64))


@pytest.mark.req("HIS-1")
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"author": b"short"}, "event.author has 5 bytes, must have 32"),
        ({"prev": b""}, "event.prev has 0 bytes"),
        ({"seq": 0}, "event.seq is 0, must be 1"),
        ({"seq": 1 << 63}, "event.seq is"),
        ({"deps": [b"d"]}, r"event.deps\[0\] has 1 bytes"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, object], words: str) -> None:
    body = pb.HistoryEventBody(**{"author": bytes(32), "seq": 1, "prev": bytes(32), **fields})  # type: ignore[arg-type]
    with pytest.raises(MalformedError, match=words):
        read_event(body.SerializeToString(), bytes(64))
    with pytest.raises(MalformedError, match="does not parse"):
        read_event(b"\xff", bytes(64))
    known = pb.HistoryEventBody(author=bytes(32), seq=1, prev=bytes(32)).SerializeToString()
    with pytest.raises(MalformedError, match="fields this version does not know"):
        read_event(known + b"\xa2\x06\x01x", bytes(64))
    with pytest.raises(MalformedError, match=r"event\.signature has 3 bytes, must have 64"):
        read_event(b"", b"sig")


@pytest.mark.req("HIS-2")
def test_a_signature_is_checked_with_the_authors_key() -> None:
    (event,) = Author(1).chain(1)
    with pytest.raises(InvalidSignatureError, match="not one of author"):
        check_signature(Author(2).key, event.signed, event.signature)
    with pytest.raises(InvalidSignatureError):
        check_signature(event.author, event.signed + b"x", event.signature)


def order_of(key: bytes) -> int:
    """Of the point, by the plain addition law of the curve (RFC 8032, 5.1.4), written apart from the product's."""
    d = -121665 * pow(121666, P - 2, P) % P
    y = int.from_bytes(key, "little") & (1 << 255) - 1
    square = (y * y - 1) * pow(d * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    point, order = (0, 1), 0
    while True:
        (a, b), order = point, order + 1
        product = d * a * x * b * y % P
        point = (
            (a * y + b * x) * pow(1 + product, P - 2, P) % P,
            (b * y + a * x) * pow(1 - product, P - 2, P) % P,
        )
        if point == (0, 1) or order > 8:
            return order


@pytest.mark.req("HIS-2")
def test_keys_of_small_order_and_second_encodings_are_refused() -> None:
    """The points of order 1, 2, 4 and 8: the y of the last solve d·y⁴ + 2·y² = 1."""
    root = pow(1 + (-121665 * pow(121666, P - 2, P) % P), (P + 3) // 8, P)
    d = -121665 * pow(121666, P - 2, P) % P
    if root * root % P != (1 + d) % P:
        root = root * pow(2, (P - 1) // 4, P) % P
    eighths: list[int] = []
    for sign in (root, P - root):
        square = (sign - 1) * pow(d, P - 2, P) % P
        y = pow(square, (P + 3) // 8, P)
        if y * y % P != square:
            y = y * pow(2, (P - 1) // 4, P) % P
        if y * y % P == square:
            eighths += [y, P - y]
    small = [1, P - 1, 0, *eighths]
    assert len(small) == 5
    for y in small:
        for sign_bit in (0, 1) if y not in (1, P - 1) else (0,):
            key = (y | sign_bit << 255).to_bytes(32, "little")
            assert order_of(key) <= 8
            with pytest.raises(MalformedError, match="small order"):
                check_author_key(key)
    for other in (P, P + 1, 1 | 1 << 255):
        with pytest.raises(MalformedError, match="shortest encoding"):
            check_author_key(other.to_bytes(32, "little"))
    with pytest.raises(MalformedError, match="no point"):
        check_author_key((2).to_bytes(32, "little"))
    with pytest.raises(MalformedError, match="32"):
        check_author_key(b"short")
    for seed in range(1, 40):
        private = Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))
        check_author_key(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
