"""The switch as a process: `python -m chaos.switch SPEC`, a child of the harness.

Owns: the descriptors, the loop that moves frames, the questions of its owner on standard input.
Never: decides what becomes of a frame; outlives its owner: it ends when its standard input does.

    {"number": 1, "ask": "links", "cut": [["n1", "n2"]], "shape": [["n2", "n1", {"delay_ms": 50.0}]]}
        ->  {"number": 1, "waiting": 0, "counts": {…}}     exactly these are cut and bad when it answers
"""

from __future__ import annotations

import json
import os
import random
import select
import sys
import time
from collections.abc import Mapping
from typing import Any

from chaos.seams import Link
from chaos.switch.fabric import Fabric
from chaos.switch.taps import FRAME_BYTES_MAX, HEADER_BYTES, open_tap

TURN_FRAMES = 64  # read from one device before the next has its turn
CONTROL_BYTES_MAX = 1 << 20
STDIN, STDOUT = 0, 1


class Switch:
    def __init__(self, namespaces: Mapping[str, str], device: str, seed: int) -> None:
        """`namespaces`: port -> where its device lives."""
        self._taps = [open_tap(namespace, device) for namespace in namespaces.values()]
        self._fabric = Fabric(list(namespaces), random.Random(seed), header_bytes=HEADER_BYTES)
        self._poll = select.epoll()
        self._ports = {tap: port for port, tap in enumerate(self._taps)}
        for tap in self._taps:
            self._poll.register(tap, select.EPOLLIN)
        self._poll.register(STDIN, select.EPOLLIN)
        self._said = b""

    def run(self) -> None:
        """Until the owner is gone."""
        while True:
            due_s = self._fabric.next_due_s()
            wait_s = -1.0 if due_s is None else max(0.0, due_s - time.monotonic())
            for descriptor, _ in self._poll.poll(wait_s):
                if descriptor == STDIN:
                    if not self._listen():
                        return
                else:
                    self._read(descriptor)
            self._write(self._fabric.due(time.monotonic()))

    def _read(self, tap: int) -> None:
        port = self._ports[tap]
        for _ in range(TURN_FRAMES):
            try:
                frame = os.read(tap, FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                return  # the device is down while its namespace is being settled
            self._write(self._fabric.offer(port, frame, time.monotonic()))

    def _write(self, frames: list[tuple[int, bytes]]) -> None:
        for port, frame in frames:
            try:
                os.write(self._taps[port], frame)
            except OSError:
                self._fabric.counts["dropped"] += 1  # its device is down or full

    def _listen(self) -> bool:
        """False when the owner is gone."""
        piece = os.read(STDIN, 1 << 16)
        self._said += piece
        if not piece or len(self._said) > CONTROL_BYTES_MAX:
            return False
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            question = json.loads(line)
            answer = {"number": question["number"], **self._answer(question)}
            os.write(STDOUT, json.dumps(answer).encode() + b"\n")
        return True

    def _answer(self, question: Mapping[str, Any]) -> dict[str, object]:
        try:
            if question["ask"] != "links":
                return {"error": f"ask: {question['ask']!r}, expected links"}
            shape = {(source, target): Link(**link) for source, target, link in question["shape"]}
            self._fabric.set_links([(source, target) for source, target in question["cut"]], shape, time.monotonic())
        except (KeyError, TypeError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}
        return {"waiting": self._fabric.waiting, "counts": self._fabric.counts}


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit("usage: python -m chaos.switch SPEC")
    spec = json.loads(arguments[0])
    switch = Switch(spec["namespaces"], spec["device"], spec["seed"])
    os.write(STDOUT, b'{"ready": true}\n')
    switch.run()


if __name__ == "__main__":
    main(sys.argv[1:])
