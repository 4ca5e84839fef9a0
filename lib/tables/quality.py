"""What is known about the value of one slot: bits that add up, one uint8 per slot."""

from __future__ import annotations

from enum import IntFlag


class Quality(IntFlag):
    """0 is a measured value that passed every rule. A value is absent where, and only where, MISSING is set."""

    VALID = 0
    MISSING = 1
    LINEAR = 2
    """Estimated on the line between its neighbours; of cumulative registers, an even share of the known energy."""
    LAST_WEEK = 4
    """Estimated by the value a week before."""
    SPIKE = 8
    """The measured value was not plausible and is not used."""
    SUSPECT = 16
    """The same value for longer than plausible, or the source system doubts it; kept."""
    NEGATIVE = 32
    """Negative although it cannot be; not used."""
    CORRECTED = 64
    """A later file replaced the value first received."""
    SUBSTITUTE = 128
    """The source system's own estimate; kept."""


ESTIMATED = Quality.LINEAR | Quality.LAST_WEEK | Quality.SUBSTITUTE
