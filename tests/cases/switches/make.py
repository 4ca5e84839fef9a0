"""Bus-bus switches: chains of ideal ones, one with an impedance, an open one, and one to a bus out of service."""

import pandapower as pp


def make():
    net = pp.create_empty_network()
    bus = [pp.create_bus(net, 10, index=i) for i in (9, 1, 7, 3, 5, 11, 2)]
    pp.create_ext_grid(net, bus[0])
    cable = {"r_ohm_per_km": 0.2, "x_ohm_per_km": 0.12, "c_nf_per_km": 250, "max_i_ka": 0.3}
    pp.create_switch(net, bus[0], bus[1], et="b")
    pp.create_switch(net, bus[2], bus[1], et="b")
    pp.create_line_from_parameters(net, bus[2], bus[3], 3, **cable)
    pp.create_switch(net, bus[3], bus[4], et="b", z_ohm=0.05, in_ka=0.4)
    pp.create_switch(net, bus[4], bus[5], et="b", closed=False)
    pp.create_line_from_parameters(net, bus[3], bus[5], 2, **cable)
    net.bus.loc[bus[6], "in_service"] = False
    pp.create_switch(net, bus[5], bus[6], et="b")
    for b in (bus[1], bus[3], bus[4], bus[5]):
        pp.create_load(net, b, 0.5, 0.1)
    return net
