"""Networks wire by wire: against the sequence frame, OpenDSS, and a circuit solved by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lib.grid.network import BRANCH_KINDS
from lib.grid.three_phase import PhaseNetwork, SequenceNetwork, kron_reduced, solve_three_phase
from tests.grid.three_phase_nets import unbalanced_net

UNTRANSPOSED = np.array(
    [[0.30 + 0.65j, 0.10 + 0.31j, 0.09 + 0.26j], [0.10 + 0.31j, 0.31 + 0.63j, 0.09 + 0.29j],
     [0.09 + 0.26j, 0.09 + 0.29j, 0.29 + 0.64j]]
)  # fmt: skip
FOUR_WIRE = np.array(
    [[0.35 + 0.72j, 0.05 + 0.42j, 0.05 + 0.37j, 0.05 + 0.36j], [0.05 + 0.42j, 0.35 + 0.72j, 0.05 + 0.41j, 0.05 + 0.37j],
     [0.05 + 0.37j, 0.05 + 0.41j, 0.35 + 0.72j, 0.05 + 0.42j], [0.05 + 0.36j, 0.05 + 0.37j, 0.05 + 0.42j, 0.55 + 0.75j]]
)  # fmt: skip


def stiff(net):
    net.shunt = net.shunt[:0]
    net.ext_grid["s_sc_max_mva"] = 1e9
    net.trafo = net.trafo.assign(
        i0_percent=0.0, pfe_kw=0.0, mag0_percent=1e12, vk0_percent=6.0, vkr0_percent=1.4, parallel=1
    )
    return net


def powers_of(network, net):
    i = network.injections(net)
    return [
        np.repeat(a[..., None], 3, axis=2) * [1.0, 0.5, 0.2] for a in (i.p_mw, i.q_mvar, i.p_delta_mw, i.q_delta_mvar)
    ]


def solved(network, powers, **options):
    return solve_three_phase(network, *powers[:2], p_delta_mw=powers[2], q_delta_mvar=powers[3], **options)


def test_sequence_data_gives_the_sequence_frames_result():
    net = stiff(unbalanced_net("YNyn", 0))
    net.load["const_z_p_percent"], net.load["const_i_q_percent"] = 30.0, 40.0
    sequence = SequenceNetwork.from_pandapower(net)
    wires = PhaseNetwork.from_sequence(sequence, {})
    powers = powers_of(sequence, net)
    one, other = (solved(n, powers, tolerance=1e-11) for n in (sequence, wires))
    assert one.converged.all()
    assert other.converged.all()
    assert np.abs(one.v_pu - other.v_pu).max() <= 1e-8
    for name in ("p_from_mw", "q_to_mvar", "i_to_ka", "i_neutral_from_ka", "p_loss_mw", "loading_percent"):
        a, b = getattr(one.branches(), name), getattr(other.branches(), name)
        assert np.allclose(a, b, rtol=1e-5, atol=1e-8), name


def kva(network, seed):
    rng = np.random.default_rng(seed)
    out = rng.uniform(-2, 12, (network.n_bus, 3)) + 1j * rng.uniform(-1, 4, (network.n_bus, 3))
    out[0] = 0
    return out


def circuit_with(network, net, lines):
    """OpenDSS with the transformer of `net` and these lines: (from row, to row, matrix in ohm)."""
    from lib.baseline.opendss import Circuit

    circuit = Circuit(20.0, 1.01, 3.0, 0, float(net.f_hz))
    circuit.transformer("t99", 0, 1, net, 0)
    for b, (f, t, z) in enumerate(lines):
        n = len(z)
        wires = ".".join(str(k + 1) for k in range(n))
        r, x = (" | ".join(" ".join(repr(float(v)) for v in row) for row in part) for part in (z.real, z.imag))
        circuit(
            f"New Line.m{b} bus1=b{f}.{wires} bus2=b{t}.{wires} phases={n} length=1 units=none "
            f"rmatrix=({r}) xmatrix=({x}) cmatrix=({' | '.join(' '.join(['0'] * n) for _ in range(n))})"
        )
    return circuit


def line_rows(network):
    positive = network.positive
    at = zip(positive.branch_kind, positive.branch_element, positive.branch_from, positive.branch_to, strict=True)
    return {int(element): (int(f), int(t)) for kind, element, f, t in at if BRANCH_KINDS[kind] == "line"}


@pytest.mark.parametrize("connection", ["wye", "delta"])
def test_untransposed_lines_agree_with_opendss(connection):
    pytest.importorskip("dss")
    net = stiff(unbalanced_net("Dyn", 30))
    sequence = SequenceNetwork.from_pandapower(net)
    ohm = {line: UNTRANSPOSED * km for line, km in enumerate(net.line.length_km)}
    network = PhaseNetwork.from_sequence(sequence, ohm)
    consumed = kva(network, 5)
    circuit = circuit_with(network, net, [(*line_rows(network)[line], z) for line, z in ohm.items()])
    for row in range(1, network.n_bus):
        for ph in range(3):
            nodes = f"b{row}.{ph + 1}" if connection == "wye" else f"b{row}.{ph + 1}.{(ph + 1) % 3 + 1}"
            kv = 0.4 / np.sqrt(3) if connection == "wye" else 0.4
            circuit.load(f"l{row}_{ph}", nodes, float(kv), float(consumed[row, ph].real), float(consumed[row, ph].imag))
    circuit.ready()
    volts = circuit.solve()
    none = np.zeros((network.n_bus, 3, 1))
    p, q = -consumed.real[..., None] / 1e3, -consumed.imag[..., None] / 1e3
    flow = solved(network, (p, q, none, none) if connection == "wye" else (none, none, p, q), tolerance=1e-10)
    assert flow.converged.all()
    base = network.positive.vn_kv[: network.n_bus] * 1e3 / np.sqrt(3)
    for row in range(network.n_bus):
        for ph in range(3):
            assert abs(flow.v_pu[row, ph, 0] - volts[f"b{row}.{ph + 1}"] / base[row]) <= 1e-4


def test_a_neutral_wire_agrees_with_opendss():
    pytest.importorskip("dss")
    net = stiff(unbalanced_net("Dyn", 30))
    sequence = SequenceNetwork.from_pandapower(net)
    ohm = {line: FOUR_WIRE * km for line, km in enumerate(net.line.length_km)}
    network = PhaseNetwork.from_sequence(sequence, ohm, earthing_ohm={1: 0.5, 4: 10.0})
    consumed = kva(network, 6)
    circuit = circuit_with(network, net, [(*line_rows(network)[line], z) for line, z in ohm.items()])
    circuit("Transformer.t99.wdg=2", "Transformer.t99.bus=b1.1.2.3.4")
    for row, r in ((1, 0.5), (4, 10.0)):
        circuit(f"New Reactor.e{row} phases=1 bus1=b{row}.4 bus2=b{row}.0 R={r} X=0")
    for row in range(1, network.n_bus):
        for ph in range(3):
            s = consumed[row, ph]
            circuit.load(f"l{row}_{ph}", f"b{row}.{ph + 1}.4", float(0.4 / np.sqrt(3)), float(s.real), float(s.imag))
    circuit.ready()
    volts = circuit.solve()
    none = np.zeros((network.n_bus, 3, 1))
    flow = solved(
        network, (-consumed.real[..., None] / 1e3, -consumed.imag[..., None] / 1e3, none, none), tolerance=1e-10
    )
    assert flow.converged.all()
    base = 400 / np.sqrt(3)
    assert np.abs(flow.neutral_v_pu[1:]).max() > 1e-3
    for row in range(1, network.n_bus):
        assert abs(flow.neutral_v_pu[row, 0] - volts[f"b{row}.4"] / base) <= 1e-4
        for ph in range(3):
            assert abs(flow.wire_v_pu[row, ph, 0] - volts[f"b{row}.{ph + 1}"] / base) <= 1e-4


def test_a_neutral_earthed_at_every_bus_is_krons():
    net = stiff(unbalanced_net("Dyn", 30))
    sequence = SequenceNetwork.from_pandapower(net)
    ohm = {line: FOUR_WIRE * km for line, km in enumerate(net.line.length_km)}
    four = PhaseNetwork.from_sequence(sequence, ohm, earthing_ohm=dict.fromkeys(range(1, 6), 1e-7))
    three = PhaseNetwork.from_sequence(sequence, {line: kron_reduced(z) for line, z in ohm.items()})
    powers = powers_of(sequence, net)
    one, other = (solved(n, powers, tolerance=1e-11) for n in (four, three))
    assert np.abs(one.v_pu - other.v_pu).max() <= 1e-5
    assert np.abs(one.neutral_v_pu).max() <= 1e-5


def test_same_bits_in_any_batch():
    net = stiff(unbalanced_net("Dyn", 30))
    sequence = SequenceNetwork.from_pandapower(net)
    ohm = {line: FOUR_WIRE * km for line, km in enumerate(net.line.length_km)}
    network = PhaseNetwork.from_sequence(sequence, ohm, earthing_ohm={1: 0.5})
    profile = np.random.default_rng(0).uniform(0.1, 1.0, 45)
    i = network.injections(net)
    powers = [a[..., None] * profile for a in (i.p_mw, i.q_mvar, i.p_delta_mw, i.q_delta_mvar)]
    whole = solved(network, powers)
    for k in (0, 31, 44):
        alone = solved(network, [a[..., k : k + 1] for a in powers])
        for name in ("wire_v_pu", "max_mismatch_mva", "iterations"):
            assert np.array_equal(getattr(whole, name)[..., k : k + 1], getattr(alone, name)), name
    assert whole.max_mismatch_mva.max() <= 1e-8


def test_what_cannot_be_is_refused():
    sequence = SequenceNetwork.from_pandapower(stiff(unbalanced_net()))
    with pytest.raises(ValueError, match="line 77"):
        PhaseNetwork.from_sequence(sequence, {77: UNTRANSPOSED})
    with pytest.raises(ValueError, match="no neutral wire"):
        PhaseNetwork.from_sequence(sequence, {0: UNTRANSPOSED}, earthing_ohm={2: 1.0})
    with pytest.raises(ValueError, match="3x3 or 4x4"):
        PhaseNetwork.from_sequence(sequence, {0: np.eye(2)})
    four = PhaseNetwork.from_sequence(sequence, dict.fromkeys(range(4), FOUR_WIRE))
    with pytest.raises(ValueError, match="tied to nothing"):
        _ = four.factors
