"""Several external grids: two in one island at different angles, one with a gen on its fused bus, a gen as slack."""

import pandapower as pp


def make():
    net = pp.create_empty_network()
    bus = [pp.create_bus(net, 20, index=i) for i in (10, 2, 8, 4, 6, 0)]
    cable = {"r_ohm_per_km": 0.2, "x_ohm_per_km": 0.12, "c_nf_per_km": 250, "max_i_ka": 0.3}
    for f, t in ((0, 1), (1, 2), (4, 5)):
        pp.create_line_from_parameters(net, bus[f], bus[t], 2, **cable)
    pp.create_ext_grid(net, bus[0], vm_pu=1.02, va_degree=2)
    pp.create_ext_grid(net, bus[2], vm_pu=1.01, va_degree=1)
    pp.create_switch(net, bus[2], bus[3], et="b")
    pp.create_gen(net, bus[3], p_mw=1, vm_pu=1.01, max_q_mvar=0.5, min_q_mvar=-0.5)
    pp.create_gen(net, bus[4], p_mw=0.4, vm_pu=1.03, slack=True)
    pp.create_gen(net, bus[5], p_mw=0.2, vm_pu=1.0, scaling=0.5)
    pp.create_gen(net, bus[5], p_mw=0.3, vm_pu=1.0)
    pp.create_load(net, bus[1], 3, 1)
    pp.create_load(net, bus[5], 1, 0.2)
    return net
