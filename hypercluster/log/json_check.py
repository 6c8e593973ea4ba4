"""Whether a hub payload is JSON that every reader understands alike (HUB-1).

Owns: `check_json`. UTF-8, no non-finite numbers, no integers beyond ±2^53, depth bounded, no lone surrogates.
Runs on the leader before it proposes (D-3), never in apply, because its answer may vary with the library's version;
even so it uses no floats: whether a number overflows is decided on integers.
Invariants: time and memory are linear in the payload, whatever it holds; no exception but those of a defect.
"""

from __future__ import annotations

import json
import re
from typing import Final

from hypercluster.limits import HUB_JSON_DEPTH_MAX

INTEGER_MAX: Final = 1 << 53
_INTEGER_DIGITS_MAX: Final = 16
_EXPONENT_DIGITS_MAX: Final = 6
# The smallest value that rounds to infinity as an IEEE 754 double.
_OVERFLOW: Final = (1 << 1024) - (1 << 970)
_OVERFLOW_DIGITS: Final = 309

# A string, or a bracket outside of one. The closing quote is optional: an unterminated string must not be tried again
# from each of its quotes, which would take quadratic time.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE: Final = " \t\n\r"


class _RefusedError(Exception):
    """Carries the words of a verdict out of the scanner."""


def check_json(payload: bytes) -> str:
    """'' when the payload may stand in the log, otherwise what is wrong with it, for an error message."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return "is not UTF-8"
    if payload.count(b"[") + payload.count(b"{") > HUB_JSON_DEPTH_MAX and _depth(text) > HUB_JSON_DEPTH_MAX:
        return f"is nested too deeply, limit HUB_JSON_DEPTH_MAX is {HUB_JSON_DEPTH_MAX}"
    text = text.strip(_SPACE)
    try:
        value, end = _decoder.raw_decode(text)
    except _RefusedError as refused:
        return str(refused)
    except ValueError:
        return "is not JSON"
    if end != len(text):
        return "holds more than one JSON value"
    if "\\u" in text and _SURROGATE.search(text) and not _encodable(value):
        return "holds a lone surrogate"
    return ""


def _depth(text: str) -> int:
    depth = deepest = 0
    for token in _TOKEN.finditer(text):
        mark = token[0][0]
        if mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "]}":
            depth -= 1
    return deepest


def _encodable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _integer(text: str) -> int:
    if len(text) > _INTEGER_DIGITS_MAX + 1 or abs(int(text)) > INTEGER_MAX:
        raise _RefusedError("holds an integer beyond ±2^53")
    return 0


def _fraction(text: str) -> int:
    """Refuses what would become infinite: exact, and without a float."""
    mantissa, _, exponent_text = text.replace("E", "e").lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    if not digits or (not exponent_text and len(whole) < _OVERFLOW_DIGITS):
        return 0
    negative = exponent_text.startswith("-")
    exponent_text = exponent_text.lstrip("+-").lstrip("0") or "0"
    if len(exponent_text) > _EXPONENT_DIGITS_MAX:
        if negative:
            return 0
        raise _RefusedError("holds a number that is not finite")
    exponent = int(exponent_text)
    # The value is 0.digits × 10^scale, with a first digit that is not 0.
    scale = len(digits) - len(fraction) + (-exponent if negative else exponent)
    if scale < _OVERFLOW_DIGITS:
        return 0
    leading = digits[: _OVERFLOW_DIGITS + 1]
    if scale > _OVERFLOW_DIGITS or int(leading.ljust(_OVERFLOW_DIGITS, "0")[:_OVERFLOW_DIGITS]) >= _OVERFLOW:
        raise _RefusedError("holds a number that is not finite")
    return 0


def _constant(text: str) -> int:
    raise _RefusedError(f"holds {text}, which is not finite")


_decoder = json.JSONDecoder(parse_int=_integer, parse_float=_fraction, parse_constant=_constant)
