"""Parallel systems, derating, two lines between the same buses, and lines of a few metres that carry load."""

import pandapower as pp


def make():
    net = pp.create_empty_network(f_hz=60)
    bus = [pp.create_bus(net, vn) for vn in (20, 20, 20, 0.4, 0.4, 0.4)]
    pp.create_ext_grid(net, bus[0])
    cable = {"r_ohm_per_km": 0.1, "x_ohm_per_km": 0.1, "c_nf_per_km": 300}
    pp.create_line_from_parameters(net, bus[0], bus[1], 5, max_i_ka=0.2, parallel=3, df=0.7, **cable)
    pp.create_line_from_parameters(net, bus[0], bus[1], 4, max_i_ka=0.3, **cable)
    pp.create_line_from_parameters(net, bus[1], bus[2], 0.001, max_i_ka=0.3, **cable)
    pp.create_transformer(net, bus[2], bus[3], "0.63 MVA 20/0.4 kV")
    pp.create_line_from_parameters(net, bus[3], bus[4], 0.002, max_i_ka=0.3, **cable)
    pp.create_line_from_parameters(net, bus[4], bus[5], 0.3, max_i_ka=0.3, **cable)
    pp.create_load(net, bus[4], 0.05, 0.02)
    pp.create_load(net, bus[5], 0.06, 0.01)
    return net
