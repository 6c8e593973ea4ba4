"""What a checker gathers on its way to a verdict.

Owns: the order of outcomes (no before unknown before yes) and how much evidence is kept.
Invariants: `yes` needs something that was judged; a single violation is a `no`, whatever else is unknown.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from chaos.records import Verdict

EVIDENCE_MAX: Final = 8
EVIDENCE_CHARS_MAX: Final = 1_000

YES, NO, UNKNOWN = "yes", "no", "unknown"


class Findings:
    def __init__(self, checker: str) -> None:
        self._checker = checker
        self._wrong: list[str] = []
        self._unsure: list[str] = []
        self._wrong_count = 0
        self._counts: Counter[str] = Counter()

    @property
    def wrong_count(self) -> int:
        return self._wrong_count

    def wrong(self, words: str) -> None:
        self._wrong_count += 1
        if len(self._wrong) < EVIDENCE_MAX:
            self._wrong.append(words[:EVIDENCE_CHARS_MAX])

    def unsure(self, words: str) -> None:
        """Something that had to be judged could not be."""
        if len(self._unsure) < EVIDENCE_MAX:
            self._unsure.append(words[:EVIDENCE_CHARS_MAX])

    def count(self, what: str, number: int = 1) -> None:
        self._counts[what] += number

    def counted(self, what: str) -> int:
        return self._counts[what]

    def verdict(self, holds: str, judged: int) -> Verdict:
        """`holds` are the words of a yes; `judged` says how many things stand behind it."""
        counts = dict(sorted(self._counts.items())) | {"judged": judged, "violations": self._wrong_count}
        if self._wrong:
            words = f"{self._wrong_count} violations; the first: {self._wrong[0]}"
            return Verdict(self._checker, NO, words, tuple(self._wrong), counts)
        if self._unsure:
            return Verdict(self._checker, UNKNOWN, self._unsure[0], tuple(self._unsure), counts)
        if judged == 0:
            return Verdict(self._checker, UNKNOWN, "the history holds nothing to judge", (), counts)
        return Verdict(self._checker, YES, f"{holds} ({judged} judged)", (), counts)


def cannot_judge(checker: str, words: str) -> Verdict:
    return Verdict(checker, UNKNOWN, words)
