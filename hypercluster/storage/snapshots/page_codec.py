"""How a page of a snapshot stands on the disk: a codec byte, and the page as it is or as zstd (D-13).

Owns: the choice, and the bound on what may come out of it.
Never: hashes: a page is addressed by its plain bytes, which no version of a library changes.
"""

from __future__ import annotations

from typing import Final

import zstandard

from hypercluster.limits import CHUNK_BYTES_MAX

PLAIN: Final = 0
ZSTD: Final = 1
LEVEL: Final = 3

_PLAIN, _ZSTD = bytes((PLAIN,)), bytes((ZSTD,))


class PageCodec:
    """`storage.chunk_store.Codec`. One thread at a time writes; reads make a context of their own."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=LEVEL)

    def encode(self, content: bytes) -> bytes:
        packed = self._compressor.compress(content)
        return _ZSTD + packed if len(packed) < len(content) else _PLAIN + content

    def decode(self, stored: bytes) -> bytes | None:
        """None: not what `encode` makes."""
        if not stored:
            return None
        if stored[0] == PLAIN:
            return stored[1:]
        if stored[0] != ZSTD:
            return None
        try:
            return zstandard.ZstdDecompressor().decompress(stored[1:], max_output_size=CHUNK_BYTES_MAX)
        except zstandard.ZstdError:
            return None
