"""A child process that is asked by JSON lines on its standard input, and answers on its standard output.

Owns: `LineChild`: starting it, matching answers with questions, its end.
Never: knows what is asked.
Invariants: every question ends: with an answer, or with ChildGoneError when the child is gone or does not answer in
time; at most QUESTIONS_MAX are open; the child ends when its standard input does, so that it never outlives its owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LINE_BYTES_MAX = 1 << 20
QUESTIONS_MAX = 1_024
ANSWER_S = 30.0
READY_S = 30.0
END_S = 5.0
PROJECT = Path(__file__).resolve().parent.parent.parent  # so that `-m` finds the harness and test builds


class ChildGoneError(RuntimeError):
    """The child ended, or stands still. Says its last words."""


class LineChild:
    """Its first line says that it is ready; what it has to say besides goes to `log`."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command = tuple(command)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._open: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._asked = 0

    async def start(self) -> Mapping[str, Any]:
        """What its first line said. Raises ChildGoneError."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=PROJECT,
                limit=LINE_BYTES_MAX,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(READY_S):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise self._gone(f"not ready within {READY_S:.0f} s") from None
        if not line:
            await self._process.wait()
            raise self._gone(f"ended with {self._process.returncode} before it was ready")
        ready: Mapping[str, Any] = json.loads(line)
        self._reading = asyncio.create_task(self._read(self._process.stdout))
        return ready

    @property
    def pid(self) -> int:
        """0 before it was started."""
        return self._process.pid if self._process is not None else 0

    @property
    def is_gone(self) -> bool:
        """It ended, and what it still had to say was read."""
        return self._reading is not None and self._reading.done()

    async def ask(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises ChildGoneError; ValueError with the child's words where it refuses the question."""
        process = self._process
        if process is None or process.stdin is None or self._reading is None or self._reading.done():
            raise self._gone("is not there to be asked")
        if len(self._open) >= QUESTIONS_MAX:
            raise self._gone(f"has not answered QUESTIONS_MAX {QUESTIONS_MAX} questions")
        self._asked += 1
        number = self._asked
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            process.stdin.write(json.dumps({"number": number, **question}).encode() + b"\n")
            async with asyncio.timeout(ANSWER_S):
                await process.stdin.drain()
                found: Mapping[str, Any] = await answer
        except TimeoutError:
            raise self._gone(f"gave no answer within {ANSWER_S:.0f} s") from None
        except ConnectionError:
            raise self._gone("went away") from None
        finally:
            self._open.pop(number, None)
        if "error" in found:
            raise ValueError(str(found["error"]))
        return found

    async def close(self) -> None:
        """Its end, gently first. Nothing happens to one that is gone."""
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
        if self._reading is not None:
            await self._reading

    async def _read(self, lines: asyncio.StreamReader) -> None:
        try:
            while line := await lines.readline():
                answer = json.loads(line)
                waiting = self._open.get(answer["number"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        finally:
            for waiting in self._open.values():
                if not waiting.done():
                    waiting.set_exception(self._gone("ended"))

    def _gone(self, what: str) -> ChildGoneError:
        last = self._log.read_bytes()[-2_000:].decode(errors="replace").strip() if self._log.exists() else ""
        return ChildGoneError(f"{self._log.name}: {what}; its last words: {last or 'none'}")
