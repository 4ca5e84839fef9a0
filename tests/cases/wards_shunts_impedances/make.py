"""Ward, xward, shunts in steps and with another rated voltage, and impedances, one of them not reciprocal."""

import pandapower as pp


def make():
    net = pp.create_empty_network(sn_mva=100.0)
    a, b, c, d = (pp.create_bus(net, 20) for _ in range(4))
    pp.create_ext_grid(net, a, vm_pu=1.03)
    cable = {"r_ohm_per_km": 0.2, "x_ohm_per_km": 0.12, "c_nf_per_km": 250, "max_i_ka": 0.3}
    pp.create_line_from_parameters(net, a, b, 3, g_us_per_km=20, **cable)
    pp.create_impedance(net, b, c, rft_pu=0.01, xft_pu=0.05, sn_mva=10, bf_pu=0.002, gf_pu=0.001)
    pp.create_impedance(net, a, d, rft_pu=0.02, xft_pu=0.06, rtf_pu=0.03, xtf_pu=0.05, sn_mva=20)
    pp.create_ward(net, b, ps_mw=0.4, qs_mvar=0.1, pz_mw=0.3, qz_mvar=0.2)
    pp.create_ward(net, c, ps_mw=0.4, qs_mvar=0.1, pz_mw=0.3, qz_mvar=0.2, in_service=False)
    pp.create_xward(net, c, ps_mw=0.2, qs_mvar=0.1, pz_mw=0.1, qz_mvar=0.1, r_ohm=1, x_ohm=8, vm_pu=1.01)
    pp.create_xward(
        net, d, ps_mw=0.2, qs_mvar=0.1, pz_mw=0.1, qz_mvar=0.1, r_ohm=1, x_ohm=8, vm_pu=1.01, in_service=False
    )
    pp.create_shunt(net, c, q_mvar=-0.3, p_mw=0.01, step=2, max_step=4, vn_kv=21)
    pp.create_shunt_as_capacitor(net, d, q_mvar=0.5, loss_factor=0.002)
    pp.create_storage(net, d, p_mw=0.3, q_mvar=-0.1, max_e_mwh=1, scaling=0.5)
    pp.create_load(net, d, 2, 0.5)
    return net
