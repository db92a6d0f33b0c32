"""Damaged copies of files, from fixed seeds: cut off, flipped bits, zeroed blocks, repeated and foreign parts."""

from collections.abc import Iterator

import numpy as np

FOREIGN = (b"", b"\0", b"\n\n", b"null", b"[]", b"{}", b"[" * 100_000, b"\xff\xfe\xfa" * 50, b"step,loss\n6")


def damaged(content: bytes, count: int) -> Iterator[bytes]:
    """`count` damaged versions of `content`, the foreign ones first."""
    yield from FOREIGN[:count]
    for seed in range(count - len(FOREIGN)):
        yield damaged_once(content, seed)


def damaged_once(content: bytes, seed: int) -> bytes:
    """A damaged version of `content`."""
    random = np.random.default_rng(seed)
    if random.random() < 0.02:
        return FOREIGN[random.integers(len(FOREIGN))]
    data = bytearray(content)
    kind = random.integers(6)
    # The headers of large files would hardly ever be hit otherwise.
    reach = len(data) if random.random() < 0.5 else min(len(data), 200)
    start, length = int(random.integers(max(1, reach))), int(random.integers(1, 2 + reach // 4))
    if kind == 0:
        del data[start:]
    elif kind == 1:
        for at in random.integers(max(1, reach), size=random.integers(1, 5)):
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
    return bytes(data)
