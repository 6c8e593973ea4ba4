"""The library without asyncio, where the caller does not wait to the end (WS-60)."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from hypercluster.client.settings import ClientSettings
from hypercluster.client.sync_client import SyncClient


@pytest.mark.req("WS-60")
def test_a_call_that_is_interrupted_does_not_go_on_behind_its_caller() -> None:
    ended = threading.Event()

    async def for_ever() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    # What runs in the background of a shell begins with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with SyncClient(ClientSettings(("127.0.0.1:9",))) as client:
            with pytest.raises(KeyboardInterrupt):
                client.wait(for_ever())
            assert ended.wait(20)
            with pytest.raises(ValueError, match="its own"):
                client.wait(_failing())
    finally:
        signal.signal(signal.SIGINT, before)


async def _failing() -> None:
    raise ValueError("its own")
