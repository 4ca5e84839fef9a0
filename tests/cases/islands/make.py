"""Islands without external grid (one with a gen), a bus without any branch, buses and elements out of service."""

import pandapower as pp
import pandapower.networks


def make():
    net = pandapower.networks.create_cigre_network_mv(with_der="pv_wind")
    cable = {"r_ohm_per_km": 0.2, "x_ohm_per_km": 0.12, "c_nf_per_km": 250, "max_i_ka": 0.3}
    for _ in range(2):
        a, b = pp.create_bus(net, 20), pp.create_bus(net, 20)
        pp.create_line_from_parameters(net, a, b, 1, **cable)
        pp.create_load(net, b, 0.1, 0.05)
    pp.create_gen(net, b, p_mw=0.2, vm_pu=1.0)
    alone = pp.create_bus(net, 20)
    pp.create_load(net, alone, 0.1)
    off = pp.create_bus(net, 20, in_service=False)
    pp.create_line_from_parameters(net, 5, off, 1, **cable)
    pp.create_load(net, off, 0.1)
    net.load.loc[3, "in_service"] = False
    net.line.loc[4, "in_service"] = False
    return net
