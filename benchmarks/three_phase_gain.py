"""Why state estimation is not split by sequences: how far the gain matrix of single-phase meters is from decoupled."""

from __future__ import annotations

from typing import Any

import click
import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from benchmarks import common
from lib.grid.three_phase.fortescue import TO_PHASES

GRIDS = ("1-LV-rural1--0-sw", "1-LV-urban6--0-sw", "1-LV-rural3--0-sw")
SIGMA_U, SIGMA_P_MW, SIGMA_ZERO_MW = 0.005, 2e-5, 1e-6

NOTES = (
    "Measurements at no load: |V| (0.5 %), P and Q (20 W) of every customer's meter, zero power (1 W) on the phases "
    "where nobody is connected. 'three-phase': every customer on all phases; 'single-phase': every customer on one "
    "phase, drawn at random.",
    "Decoupled gain: G with the blocks between different sequences left out. Iterating with it instead of G multiplies "
    "an error by up to the spectral radius of 1 - inverse(decoupled) G in each step: above 1 that diverges.",
    "Share of coupling: Frobenius norm of what is left out, over that of G.",
)


@click.command()
@click.option("--grid", "grids", multiple=True, help="Only these SimBench codes.")
def main(grids: tuple[str, ...]) -> None:
    common.one_core()
    rows = [measure(code, single) for code in grids or GRIDS for single in (False, True)]
    common.write("three_phase_gain", {}, {"the gain matrix by sequences": rows}, NOTES)


def measure(code: str, single: bool) -> dict[str, Any]:
    """Coupling of one grid's gain matrix."""
    from lib.grid.three_phase import SequenceNetwork, assume_zero_sequence
    from lib.ingest.source import simbench_net

    net = assume_zero_sequence(simbench_net(code))
    network = SequenceNetwork.from_pandapower(net)
    given = network.injections(net)
    customer = (given.p_mw != 0).any(axis=1)
    phase = np.random.default_rng(1).integers(0, 3, network.n_bus)
    metered = customer[:, None] & ((np.arange(3) == phase[:, None]) | (not single))
    gain = gain_matrix(network, metered)
    n = len(gain) // 6
    decoupled = gain.copy()
    sequence = np.arange(6 * n) // 2 % 3
    decoupled[sequence[:, None] != sequence] = 0
    left_out = np.linalg.norm(gain - decoupled) / np.linalg.norm(gain)
    shares = scipy.linalg.eigh(gain, decoupled, eigvals_only=True)
    return {
        "grid": code, "customers": int(customer.sum()), "meters": "single-phase" if single else "three-phase",
        "share of coupling": float(left_out), "spectral radius": float(np.abs(1 - shares).max()),
    }  # fmt: skip


def gain_matrix(network: Any, metered: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(6 n, 6 n) in real and imaginary parts of each node's three sequence voltages, node after node."""
    factors = network.factors
    n, row = factors.elimination.n, factors.elimination.row
    to_phases = np.kron(np.eye(n), TO_PHASES)
    v = TO_PHASES[:, 1][None].repeat(n, axis=0).ravel()  # no load
    power = v[:, None] / 3 * np.conj(to_phases @ factors.y.toarray())  # times conj(dx): change of each phase's power
    magnitude = np.conj(v)[:, None] * to_phases
    here = np.zeros((n, 3), dtype=bool)
    visible = row < network.n_bus
    here[visible] = metered[row[visible]]
    grid = np.isin(row, network.positive.fixed_row)[:, None].repeat(3, axis=1)
    sigma = np.where(here, SIGMA_P_MW, SIGMA_ZERO_MW)[~grid][:, None]

    def real(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
        """Columns of each unknown's real and imaginary part, in turn."""
        return np.stack([first, second], axis=2).reshape(3 * n, 6 * n)

    active, reactive = real(power.real, power.imag), real(power.imag, -power.real)
    along, across = real(magnitude.real, -magnitude.imag), real(magnitude.imag, magnitude.real)
    at_grid = grid.ravel()
    h = np.concatenate([
        active[~at_grid] / sigma, reactive[~at_grid] / sigma, along[here.ravel() | at_grid] / SIGMA_U,
        across[at_grid] / SIGMA_U,  # the grid's angle is the reference
    ])  # fmt: skip
    return h.T @ h


if __name__ == "__main__":
    main()
