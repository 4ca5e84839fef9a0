"""Fortescue's transform. Source: Fortescue, Method of symmetrical co-ordinates (1918)."""

import numpy as np

_A = np.exp(2j * np.pi / 3)
TO_PHASES = np.array([[1, 1, 1], [1, _A**2, _A], [1, _A, _A**2]])
"""abc from 012."""
TO_SEQUENCES = np.array([[1, 1, 1], [1, _A, _A**2], [1, _A**2, _A]]) / 3
"""012 from abc."""
