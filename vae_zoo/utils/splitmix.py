"""Integer hash for counter-based random numbers."""

from typing import Any


def mix(x: Any) -> Any:
    """Applies the finaliser of splitmix64 to int64 arrays or tensors, whose products wrap, or to an int in the same way.

    The constants are the published ones as signed integers; the masks make `>>` logical. Source: Steele et al. (2014).
    """
    wrapped = _signed if isinstance(x, int) else lambda product: product
    x = wrapped((x + 1) * -0x61C8864680B583EB)
    x = wrapped((x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47)
    x = wrapped((x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15)
    return x ^ ((x >> 31) & (2**33 - 1))


def _signed(x: int) -> int:
    return (x + 2**63) % 2**64 - 2**63
