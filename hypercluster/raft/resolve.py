"""Names of peers to addresses, off the loop: a name server that hangs holds up nothing but its own peer.

Owns: `Resolver`.
Never: getaddrinfo on the loop; more than one look-up of a name at a time; a thread that keeps the process from ending.
Invariants: an address that is an IP literal needs no look-up; while a look-up hangs or fails, the last good answer
is used, so that a name server that went away does not cut a cluster that is running.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Final

NAMES_MAX: Final = 64
ADDRESSES_MAX: Final = 8

LookUp = Callable[[str], list[str]]


def split_address(address: str) -> tuple[str, int]:
    """host:port, [v6]:port. Raises ValueError."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 <= int(port) <= 65_535:
        raise ValueError(f"address {address[:80]!r}: host:port is expected")
    return host, int(port)


def grpc_target(addresses: list[str], port: int) -> str:
    """Of IP literals, which gRPC dials without a look-up. One family only: the first one's."""
    if ":" in addresses[0]:
        return "ipv6:" + ",".join(f"[{a}]:{port}" for a in addresses if ":" in a)
    return "ipv4:" + ",".join(f"{a}:{port}" for a in addresses if ":" not in a)


def system_look_up(host: str) -> list[str]:
    """Blocking. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))[:ADDRESSES_MAX]


class Resolver:
    """Used on one loop."""

    def __init__(self, look_up: LookUp = system_look_up) -> None:
        self._look_up = look_up
        self._under_way: dict[str, asyncio.Future[list[str]]] = {}
        self._known: dict[str, list[str]] = {}

    async def resolve(self, host: str, timeout_s: float) -> list[str]:
        """IP literals, at least one. Raises OSError when nothing is known in time."""
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        answer = self._under_way.get(host)
        if answer is None:
            answer = self._begin(host)
        try:
            # Shielded: the look-up goes on for the next attempt when this one is cancelled or out of time.
            return await asyncio.wait_for(asyncio.shield(answer), timeout_s)
        except (OSError, UnicodeError, TimeoutError) as error:
            known = self._known.get(host)
            if known is None:
                raise OSError(f"{host} does not resolve: {error or 'no answer in time'}") from error
            return known

    def _begin(self, host: str) -> asyncio.Future[list[str]]:
        if len(self._under_way) >= NAMES_MAX:
            raise OSError("too many names are being looked up")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()
        self._under_way[host] = answer

        def finish(addresses: list[str], error: Exception | None) -> None:
            del self._under_way[host]
            if error is None and addresses:
                if host in self._known or len(self._known) < NAMES_MAX:
                    self._known[host] = addresses
                answer.set_result(addresses)
            else:
                answer.set_exception(error or OSError("no address"))
                answer.exception()  # looked at here, because every waiter may have given up

        def work() -> None:
            addresses: list[str] = []
            failure: Exception | None = None
            try:
                addresses = self._look_up(host)
            except Exception as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(finish, addresses, failure)

        # A daemon thread, not an executor: the interpreter waits for an executor's threads when it ends.
        threading.Thread(target=work, name=f"resolve-{host}", daemon=True).start()
        return answer
