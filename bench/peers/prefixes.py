"""Prefix lengths: the same numbers as nextpatch draws (csrc/util/philox.c), so that both sides have the same work."""

import itertools


def philox(counter, key):
    """philox4x32-10 (Salmon et al., SC 2011)."""
    c, k, low = list(counter), list(key), 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & low, (p0 >> 32) ^ c[3] ^ k[1], p0 & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return c


def prefix_lengths(seed, epoch, index, low, high, images):
    """Uniform in low..high, one an image. `bench step` has its step as epoch, `bench attention` its tokens as index."""
    purpose = 5
    words = itertools.chain.from_iterable(
        philox((block, purpose << 24, index, epoch), (seed & 0xFFFFFFFF, seed >> 32)) for block in itertools.count())
    bound, lengths = high - low + 1, []
    while len(lengths) < images:
        product = next(words) * bound
        if product & 0xFFFFFFFF >= 2**32 % bound:
            lengths.append(low + (product >> 32))
    return lengths
