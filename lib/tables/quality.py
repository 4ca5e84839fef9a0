"""What is known about the value of one slot: bits that add up, one uint8 per slot."""

from __future__ import annotations

from enum import IntFlag


class Quality(IntFlag):
    """0 is a measured value that passed every rule. A value is absent where, and only where, MISSING is set."""

    VALID = 0
    MISSING = 1
    LINEAR = 2
    """Estimated on the line between its neighbours, or an even share of energy known for more than the day."""
    LAST_WEEK = 4
    """Estimated by the value a week before."""
    REFUSED = 8
    """The measured value cannot be (spike, negative, a register that fell) and is not used."""
    SUSPECT = 16
    """The same value for longer than plausible, or the source system doubts it; kept."""
    REGISTER = 32
    """A share of energy that a cumulative register counted exactly: only how it lies within the day is estimated."""
    CORRECTED = 64
    """A later file replaced the value first received."""
    SUBSTITUTE = 128
    """The source system's own estimate; kept."""


ESTIMATED = Quality.LINEAR | Quality.LAST_WEEK | Quality.SUBSTITUTE
"""Energy that nothing measured: what counts as estimated in the sum of a day, or of more days."""
ESTIMATED_SLOT = ESTIMATED | Quality.REGISTER
"""Values of single slots that are estimated, for peaks, curves and power."""
