"""Shuffling without a list: a seeded permutation of 0..n-1 that is computed where it is read.

A Feistel network over pairs of numbers below ceil(sqrt(n)), walked on until it lands below n:
Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", sections 3 and 4.
"""

import math
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_NUM_ROUNDS = 6


class Permutation:
    """Item `i` of a shuffled list of `size` numbers, for any `i`, in constant memory."""

    def __init__(self, size: int, key: str):
        self.size = size
        self._side = np.uint64(max(1, math.isqrt(size - 1) + 1))
        digest = blake2b(key.encode(), digest_size=8 * _NUM_ROUNDS).digest()
        self._round_keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def items(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return items `start` to `stop - 1`."""
        place = self._once(np.arange(start, stop, dtype=np.uint64))
        while (outside := place >= self.size).any():
            place[outside] = self._once(place[outside])
        return place.astype(np.int64)

    def _once(self, place: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = np.divmod(place, self._side)
        for key in self._round_keys:
            left, right = right, (left + _mix(right ^ key) % self._side) % self._side
        return left * self._side + right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
