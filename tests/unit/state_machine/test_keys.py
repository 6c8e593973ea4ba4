"""Byte order of keys is the order of what they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypercluster.state_machine.keys import escaped, number, prefix_end, read_escaped, read_number

PARTS = st.tuples(st.binary(max_size=6), st.binary(max_size=6), st.integers(0, (1 << 64) - 1))


def key(parts: tuple[bytes, bytes, int]) -> bytes:
    return escaped(parts[0]) + escaped(parts[1]) + number(parts[2])


@settings(derandomize=True, max_examples=500)
@given(PARTS, PARTS)
def test_keys_sort_as_their_tuples(one: tuple[bytes, bytes, int], two: tuple[bytes, bytes, int]) -> None:
    assert (key(one) < key(two)) == (one < two)
    assert (key(one) == key(two)) == (one == two)


@settings(derandomize=True, max_examples=300)
@given(PARTS)
def test_parts_are_read_back(parts: tuple[bytes, bytes, int]) -> None:
    whole = key(parts)
    first, position = read_escaped(whole, 0)
    second, position = read_escaped(whole, position)
    assert (first, second, read_number(whole, position)) == parts
    with pytest.raises(ValueError):
        read_escaped(b"never ends\0\xff", 0)


@settings(derandomize=True, max_examples=300)
@given(st.binary(min_size=1, max_size=4), st.binary(max_size=4))
def test_a_prefix_ends_behind_its_keys(prefix: bytes, rest: bytes) -> None:
    if prefix.strip(b"\xff"):
        assert prefix + rest < prefix_end(prefix)
        assert not prefix_end(prefix).startswith(prefix)
