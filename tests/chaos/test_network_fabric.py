"""What the switch makes of a frame, under a clock of the test's own."""

from __future__ import annotations

import random

import pytest

from chaos.seams import Link, Pair
from chaos.switch.fabric import QUEUED_BYTES_MAX, RATE_WAIT_S_MAX, Fabric

PORTS = ("n1", "n2", "n3")
EVERYBODY = b"\xff" * 6


def address(port: str) -> bytes:
    return bytes([2, 0, 0, 0, 0, PORTS.index(port)])


def frame(source: str, target: str, content: bytes = b"") -> bytes:
    return address(target) + address(source) + b"\x08\x00" + content


class Bench:
    """A fabric that knows where everybody is."""

    def __init__(self, seed: int = 1) -> None:
        print(f"seed {seed}")
        self.fabric = Fabric(PORTS, random.Random(seed))
        for port in PORTS:
            self.fabric.offer(PORTS.index(port), address(port) * 2, 0.0)
        self.now_s = 100.0

    def links(self, cut: list[Pair] | None = None, shape: dict[Pair, Link] | None = None) -> None:
        self.fabric.set_links(cut or [], shape or {}, self.now_s)

    def send(self, source: str, target: str, content: bytes = b"") -> list[tuple[str, bytes]]:
        out = self.fabric.offer(PORTS.index(source), frame(source, target, content), self.now_s)
        return [(PORTS[port], sent[14:]) for port, sent in out]

    def advance(self, by_s: float) -> list[tuple[str, bytes]]:
        self.now_s += by_s
        return [(PORTS[port], sent[14:]) for port, sent in self.fabric.due(self.now_s)]


def test_a_frame_goes_to_its_port_alone_and_a_broadcast_to_all_others() -> None:
    bench = Bench()
    assert bench.send("n1", "n2", b"a") == [("n2", b"a")]
    out = bench.fabric.offer(0, EVERYBODY + address("n1") + b"\x08\x06who", bench.now_s)
    assert [port for port, _ in out] == [1, 2]
    assert bench.fabric.offer(0, frame("n1", "n1"), bench.now_s) == [], "nothing comes back out of the port it came by"
    assert bench.fabric.offer(0, b"short", bench.now_s) == []


def test_an_address_nobody_has_used_is_looked_for_everywhere() -> None:
    fabric = Fabric(PORTS, random.Random(1))
    assert [port for port, _ in fabric.offer(0, frame("n1", "n3"), 0.0)] == [1, 2]
    assert [port for port, _ in fabric.offer(2, frame("n3", "n1"), 0.0)] == [0], "n1 has been heard by now"


def test_the_kernels_header_stands_before_the_addresses_and_goes_along() -> None:
    fabric = Fabric(PORTS, random.Random(1), header_bytes=10)
    whole = b"\x00" * 10 + frame("n1", "n3", b"x")
    assert fabric.offer(2, b"\xee" * 10 + frame("n3", "n1"), 0.0)
    assert fabric.offer(0, whole, 0.0) == [(2, whole)]


@pytest.mark.req("CH-4")
def test_a_cut_is_of_one_direction() -> None:
    bench = Bench()
    bench.links(cut=[("n1", "n2")])
    assert bench.send("n1", "n2") == []
    assert bench.send("n2", "n1", b"back") == [("n1", b"back")]
    assert bench.send("n1", "n3", b"other") == [("n3", b"other")]
    out = bench.fabric.offer(0, EVERYBODY + address("n1") + b"\x08\x06", bench.now_s)
    assert [port for port, _ in out] == [2], "a broadcast is cut like everything else"
    bench.links()
    assert bench.send("n1", "n2", b"healed") == [("n2", b"healed")]


@pytest.mark.req("CH-4")
def test_a_delay_is_as_long_as_it_says_and_of_one_direction() -> None:
    bench = Bench()
    bench.links(shape={("n1", "n2"): Link(delay_ms=50.0)})
    assert bench.send("n1", "n2", b"late") == []
    assert bench.send("n2", "n1", b"now") == [("n1", b"now")]
    assert bench.fabric.next_due_s() == pytest.approx(bench.now_s + 0.05)
    assert bench.advance(0.049) == []
    assert bench.advance(0.002) == [("n2", b"late")]


@pytest.mark.req("CH-4")
@pytest.mark.parametrize("seed", range(5))
def test_jitter_spreads_delays_and_keeps_the_order(seed: int) -> None:
    bench = Bench(seed)
    bench.links(shape={("n1", "n2"): Link(delay_ms=20.0, jitter_ms=15.0)})
    arrived: list[tuple[int, float]] = []
    sent_at: list[float] = []
    for number in range(200):
        bench.send("n1", "n2", number.to_bytes(2, "big"))
        sent_at.append(bench.now_s)
        arrived += [(int.from_bytes(content, "big"), bench.now_s) for _, content in bench.advance(0.001)]
    while bench.fabric.waiting:
        arrived += [(int.from_bytes(content, "big"), bench.now_s) for _, content in bench.advance(0.001)]
    assert [number for number, _ in arrived] == list(range(200))
    took_ms = [(at_s - sent_at[number]) * 1e3 for number, at_s in arrived]
    assert min(took_ms) >= 4.9 and max(took_ms) <= 37.1
    assert max(took_ms) - min(took_ms) > 5


@pytest.mark.req("CH-4")
def test_loss_is_as_heavy_as_it_says() -> None:
    bench = Bench(7)
    bench.links(shape={("n1", "n2"): Link(loss=0.3), ("n2", "n1"): Link(loss=1.0)})
    arrived = sum(len(bench.send("n1", "n2")) for _ in range(5_000))
    assert 0.67 < arrived / 5_000 < 0.73
    assert not any(bench.send("n2", "n1") for _ in range(1_000))
    assert bench.fabric.counts["dropped"] == 6_000 - arrived


@pytest.mark.req("CH-4")
def test_a_narrow_link_carries_its_rate_and_drops_what_would_wait_too_long() -> None:
    bench = Bench()
    bench.links(shape={("n1", "n2"): Link(rate_mbit=1.0)})
    content = b"x" * (1_250 - 14)  # 10 ms at 1 Mbit/s
    for _ in range(200):
        bench.send("n1", "n2", content)
    wanted = int(RATE_WAIT_S_MAX / 0.01) + 1
    assert abs(bench.fabric.waiting - wanted) <= 1, "what would begin after RATE_WAIT_S_MAX is dropped"
    assert len(bench.advance(0.1001)) == 10
    assert len(bench.advance(0.2)) == 20
    bench.advance(1.0)
    assert bench.send("n1", "n2", content) == [], "an idle link still takes its time for a frame"
    assert len(bench.advance(0.0101)) == 1


@pytest.mark.req("CH-4")
def test_a_healed_link_is_healed_at_once_and_in_order() -> None:
    bench = Bench()
    bench.links(shape={("n1", "n2"): Link(delay_ms=5_000.0), ("n1", "n3"): Link(delay_ms=5_000.0)})
    bench.send("n1", "n2", b"1")
    bench.send("n1", "n2", b"2")
    bench.send("n1", "n3", b"still slow")
    bench.links(shape={("n1", "n3"): Link(delay_ms=5_000.0)})
    assert bench.send("n1", "n2", b"3") == [], "the two before it go first"
    assert bench.advance(0.0) == [("n2", b"1"), ("n2", b"2"), ("n2", b"3")]
    assert bench.send("n1", "n2", b"4") == [("n2", b"4")]
    assert bench.advance(5.0) == [("n3", b"still slow")]


def test_a_cut_takes_what_was_on_its_way() -> None:
    bench = Bench()
    slow = {("n1", "n2"): Link(delay_ms=10.0)}
    bench.links(shape=slow)
    bench.send("n1", "n2")
    bench.links(cut=[("n1", "n2")], shape=slow)
    assert bench.advance(1.0) == []
    assert bench.fabric.waiting == 0


def test_what_waits_is_bounded() -> None:
    bench = Bench()
    bench.links(shape={("n1", "n2"): Link(delay_ms=1_000.0)})
    content = b"x" * 65_000
    for _ in range(QUEUED_BYTES_MAX // 65_000 + 10):
        bench.send("n1", "n2", content)
    assert bench.fabric.waiting <= QUEUED_BYTES_MAX // 65_000
    assert bench.fabric.counts["dropped"] >= 9


@pytest.mark.parametrize(
    ("cut", "shape", "words"),
    [
        ([("n1", "n9")], {}, "no port is named 'n9'"),
        ([("n1", "n1")], {}, "from a port to itself"),
        ([], {("n1", "n2"): Link(loss=1.5)}, "loss is 1.5, must be 0 to 1"),
        ([], {("n1", "n2"): Link(delay_ms=-1.0)}, "delay_ms is -1.0, must be 0 to 60000"),
        ([], {("n1", "n2"): Link(rate_mbit=float("nan"))}, "rate_mbit is nan"),
    ],
)
def test_a_wrong_table_is_refused_and_changes_nothing(cut: list[Pair], shape: dict[Pair, Link], words: str) -> None:
    bench = Bench()
    bench.links(cut=[("n2", "n1")])
    with pytest.raises(ValueError, match=words):
        bench.links(cut=cut, shape=shape)
    assert bench.send("n2", "n1") == []
    assert bench.send("n1", "n2", b"x") == [("n2", b"x")]
