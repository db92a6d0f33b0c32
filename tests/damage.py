"""Damaged copies of files, from fixed seeds: cut off, flipped bits, zeroed blocks, repeated and foreign parts."""

from collections.abc import Iterator

import numpy as np

FOREIGN = (b"", b"\0", b"\n\n", b"null", b"[]", b"{}", b"[" * 100_000, b"\xff\xfe\xfa" * 50, b"step,loss\n6")


def damaged(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` damaged versions of `content`, the foreign ones first."""
    yield from FOREIGN[:count]
    random = np.random.default_rng(seed)
    for _ in range(count - len(FOREIGN)):
        data = bytearray(content)
        kind = random.integers(6)
        start = int(random.integers(max(1, len(data))))
        length = int(random.integers(1, 1 + max(1, len(data) // 4)))
        if kind == 0:
            del data[start:]
        elif kind == 1:
            for at in random.integers(max(1, len(data)), size=random.integers(1, 5)):
                if at < len(data):
                    data[at] ^= 1 << int(random.integers(8))
        elif kind == 2:
            data[start : start + length] = bytes(len(data[start : start + length]))
        elif kind == 3:
            del data[start : start + length]
        elif kind == 4:
            data[start:start] = data[start : start + length]
        else:
            data[start : start + length] = random.bytes(len(data[start : start + length]))
        yield bytes(data)
