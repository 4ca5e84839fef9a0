"""Lines and transformers open at one end or both: the charging and the no-load loss of the connected side stay."""

import pandapower as pp
import pandapower.networks


def make():
    net = pandapower.networks.create_cigre_network_mv()
    cable = {"r_ohm_per_km": 0.2, "x_ohm_per_km": 0.12, "c_nf_per_km": 250, "max_i_ka": 0.3}
    end = pp.create_bus(net, 20)
    lines = [pp.create_line_from_parameters(net, 5, end, 4, **cable) for _ in range(4)]
    pp.create_switch(net, end, lines[1], et="l", closed=False)
    pp.create_switch(net, 5, lines[2], et="l", closed=False)
    for bus in (5, end):
        pp.create_switch(net, bus, lines[3], et="l", closed=False)
    lv = pp.create_bus(net, 0.4)
    for open_at in (end, lv, None):
        trafo = pp.create_transformer(net, end, lv, "0.63 MVA 20/0.4 kV")
        if open_at is not None:
            pp.create_switch(net, open_at, trafo, et="t", closed=False)
    pp.create_load(net, lv, 0.2, 0.05)
    off = pp.create_bus(net, 20, in_service=False)
    pp.create_line_from_parameters(net, end, off, 2, **cable)
    return net
