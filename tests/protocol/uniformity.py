"""Are these ring elements uniform, or two samples of one distribution? With how little chance of a false alarm.

Masks come from the operating system, so no seed can be fixed. A check of N elements raises a false alarm with a chance
of 1e-7 (bytes) and 64 * 2e-9 = 1.3e-7 (bits); all checks of the suite together stay below 1e-4.
"""

import numpy as np
from scipy.stats import chi2

BYTES = 8
FALSE_ALARM = 1e-7
DEVIATIONS = 6


def bytes_of(elements: np.ndarray) -> np.ndarray:
    """[elements, 8], the lowest byte first."""
    return np.ascontiguousarray(elements.reshape(-1).view(np.uint64)).view(np.uint8).reshape(-1, BYTES)


def counts(elements: np.ndarray) -> np.ndarray:
    """How often each value of each byte occurs [8, 256]."""
    return np.stack([np.bincount(column, minlength=256) for column in bytes_of(elements).T])


def are_uniform(elements: np.ndarray) -> bool:
    """Chi-square over the values of each of the 8 bytes, and the mean of each of the 64 bits."""
    assert elements.size >= 5 * 256, "too few for chi-square"
    expected = elements.size / 256
    statistics = ((counts(elements) - expected) ** 2 / expected).sum(1)
    bits = np.unpackbits(bytes_of(elements), axis=1).mean(0)
    return bool(
        statistics.max() < chi2.isf(FALSE_ALARM / BYTES, 255)
        and np.abs(bits - 0.5).max() < DEVIATIONS / (2 * np.sqrt(elements.size))
    )


def are_alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Two samples of one size: chi-square, byte by byte, for one distribution."""
    assert first.size == second.size >= 5 * 256, "too few for chi-square"
    a, b = counts(first), counts(second)
    seen = a + b > 0
    statistics = np.divide((a - b) ** 2, a + b, where=seen, out=np.zeros(a.shape)).sum(1)
    limits = chi2.isf(FALSE_ALARM / BYTES, np.maximum(seen.sum(1) - 1, 1))
    return bool((statistics < limits).all())
