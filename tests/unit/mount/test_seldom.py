"""A thing is said now and then."""

from __future__ import annotations

from hypercluster.mount.seldom import REMEMBERED_MAX, Seldom


def test_the_same_thing_is_said_once_in_a_while() -> None:
    now_s = [100.0]
    seldom = Seldom(10.0, lambda: now_s[0])
    assert [seldom.due("a"), seldom.due("a"), seldom.due("b")] == [True, False, True]
    now_s[0] = 109.9
    assert not seldom.due("a")
    now_s[0] = 110.0
    assert seldom.due("a") and not seldom.due("a")


def test_what_is_remembered_is_bounded() -> None:
    seldom = Seldom(10.0, lambda: 100.0)
    assert all(seldom.due(number) for number in range(3 * REMEMBERED_MAX))
    assert len(seldom._said_s) <= REMEMBERED_MAX
