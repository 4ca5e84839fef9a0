"""Unbalanced power flow: networks by sequence, powers and results by phase."""

from lib.grid.three_phase.injections import PhaseInjections, by_phase
from lib.grid.three_phase.network import SequenceNetwork
from lib.grid.three_phase.phase_network import PhaseNetwork, kron_reduced
from lib.grid.three_phase.powerflow import ThreePhasePowerFlow, solve_three_phase
from lib.grid.three_phase.typical import assume_zero_sequence

__all__ = [
    "PhaseInjections",
    "PhaseNetwork",
    "SequenceNetwork",
    "ThreePhasePowerFlow",
    "assume_zero_sequence",
    "by_phase",
    "kron_reduced",
    "solve_three_phase",
]
