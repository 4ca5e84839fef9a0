"""Constant-impedance and constant-current shares, different for P and Q, also beside other injections of the bus."""

import pandapower as pp
import pandapower.networks


def make():
    net = pandapower.networks.create_cigre_network_mv(with_der="pv_wind")
    n = len(net.load)
    net.load["const_z_p_percent"] = [10.0 * (i % 5) for i in range(n)]
    net.load["const_i_p_percent"] = [10.0 * (i % 4) for i in range(n)]
    net.load["const_z_q_percent"] = [15.0 * (i % 3) for i in range(n)]
    net.load["const_i_q_percent"] = [5.0 * (i % 7) for i in range(n)]
    net.load["scaling"] = 1.3
    pp.create_motor(net, 6, pn_mech_mw=0.2, cos_phi=0.85, efficiency_percent=95, loading_percent=80)
    return net
