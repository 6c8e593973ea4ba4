"""Numbers as people read them: counts with thin groups, spans, sizes and ages with their units.

Owns: the formats of every table and summary line.
Never: decides what is shown; JSON output uses the plain numbers.
"""

from __future__ import annotations

from datetime import UTC, datetime

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def count(number: int) -> str:
    """18402113 -> "18 402 113"."""
    return f"{number:,}".replace(",", " ")


def span_us(duration_us: int) -> str:
    """Microseconds as ms or s: "0.4 ms", "1.9 s"; "-" for none."""
    if duration_us <= 0:
        return "-"
    if duration_us < 1_000_000:
        return f"{duration_us / 1_000:.1f} ms"
    return f"{duration_us / 1_000_000:.1f} s"


def size(size_bytes: int) -> str:
    value = float(size_bytes)
    for unit in _SIZES:
        if value < 1024 or unit == _SIZES[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{size_bytes} B"


def instant(at_ns: int) -> str:
    """RFC 3339 with nine fraction digits and Z (WS-17)."""
    seconds, rest = divmod(at_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def percent_of(part: int, whole: int) -> str:
    """ "41 % of 80.0 GiB"."""
    return f"{part * 100 // whole} % of {size(whole)}" if whole else "-"


def age(duration_ns: int) -> str:
    """The two largest units: "3 d 4 h", "12 s"."""
    seconds = max(0, duration_ns // 1_000_000_000)
    parts = [(seconds // 86_400, "d"), (seconds // 3_600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((i for i, (n, _) in enumerate(parts) if n), len(parts) - 1)
    return " ".join(f"{n} {unit}" for n, unit in parts[first : first + 2] if n or first == len(parts) - 1)
