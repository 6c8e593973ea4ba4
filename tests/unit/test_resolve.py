"""Names are looked up beside the loop, one look-up a name, and the last good answer outlives the name server."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from hypercluster.raft.resolve import Resolver, grpc_target, split_address, system_look_up
from tests.fakes.waiting import eventually


class NameServer:
    """Answers with what stands in `answer`, after `gate` opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.answer: list[str] | Exception = ["10.0.0.1"]
        self.asked = 0

    def look_up(self, host: str) -> list[str]:
        self.asked += 1
        assert self.gate.wait(20)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_literals_need_no_look_up() -> None:
    server = NameServer()
    resolver = Resolver(server.look_up)
    assert await resolver.resolve("127.0.0.1", 1) == ["127.0.0.1"]
    assert await resolver.resolve("::1", 1) == ["::1"]
    assert server.asked == 0


async def test_a_name_that_changes_is_followed() -> None:
    server = NameServer()
    resolver = Resolver(server.look_up)
    assert await resolver.resolve("n1", 5) == ["10.0.0.1"]
    server.answer = ["10.0.0.2", "10.0.0.3"]
    assert await resolver.resolve("n1", 5) == ["10.0.0.2", "10.0.0.3"]


async def test_a_hanging_look_up_blocks_nobody_and_is_not_asked_twice() -> None:
    server = NameServer()
    server.gate.clear()
    resolver = Resolver(server.look_up)
    begun = time.monotonic()
    for _ in range(3):
        with pytest.raises(OSError, match="n1 does not resolve"):
            await resolver.resolve("n1", 0.05)
    assert time.monotonic() - begun < 2
    assert server.asked == 1
    waiting = asyncio.create_task(resolver.resolve("n1", 5))
    await asyncio.sleep(0)
    server.gate.set()
    assert await waiting == ["10.0.0.1"]
    assert server.asked == 1


async def test_the_last_good_answer_serves_while_the_name_server_is_away() -> None:
    server = NameServer()
    resolver = Resolver(server.look_up)
    assert await resolver.resolve("n1", 5) == ["10.0.0.1"]
    server.answer = OSError("no such name")
    assert await resolver.resolve("n1", 5) == ["10.0.0.1"]
    server.gate.clear()
    assert await resolver.resolve("n1", 0.05) == ["10.0.0.1"]
    server.gate.set()


async def test_failures_are_told() -> None:
    server = NameServer()
    resolver = Resolver(server.look_up)
    for wrong in (OSError("no such name"), UnicodeError("label too long"), ["10.0.0.1"][:0]):
        server.answer = wrong  # type: ignore[assignment]
        with pytest.raises(OSError, match="n1 does not resolve"):
            await resolver.resolve("n1", 5)


async def test_a_waiter_that_gives_up_leaves_the_look_up_to_others() -> None:
    server = NameServer()
    server.gate.clear()
    resolver = Resolver(server.look_up)
    first = asyncio.create_task(resolver.resolve("n1", 5))
    second = asyncio.create_task(resolver.resolve("n1", 5))
    await eventually(lambda: server.asked == 1, "asked")
    first.cancel()
    server.gate.set()
    assert await second == ["10.0.0.1"]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_names_under_way_are_bounded() -> None:
    server = NameServer()
    server.gate.clear()
    resolver = Resolver(server.look_up)
    for number in range(64):
        with pytest.raises(OSError, match="does not resolve"):
            await resolver.resolve(f"n{number}", 0.001)
    with pytest.raises(OSError, match="too many names"):
        await resolver.resolve("n64", 0.001)
    server.gate.set()
    await eventually(lambda: not resolver._under_way, "all ended")


def test_the_system_s_look_up() -> None:
    assert "127.0.0.1" in system_look_up("localhost") or "::1" in system_look_up("localhost")


def test_addresses() -> None:
    assert split_address("n1.example:7000") == ("n1.example", 7000)
    assert split_address("[::1]:7000") == ("::1", 7000)
    for wrong in ("", "n1", ":7000", "n1:", "n1:x", "n1:70000", "n1:-1"):
        with pytest.raises(ValueError, match="host:port"):
            split_address(wrong)
    assert grpc_target(["10.0.0.1", "10.0.0.2"], 7) == "ipv4:10.0.0.1:7,10.0.0.2:7"
    assert grpc_target(["::1", "10.0.0.2"], 7) == "ipv6:[::1]:7"
