"""Gens that run into their limits in several rounds."""

import pandapower.networks


def make():
    net = pandapower.networks.case57()
    net.gen[["min_q_mvar", "max_q_mvar"]] *= 0.3
    return net
