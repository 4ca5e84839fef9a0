"""Three-winding transformers: tap at a terminal and at the star point, phase shifts, one leg open."""

import pandapower as pp


def make():
    net = pp.create_empty_network()
    hv = pp.create_bus(net, 110)
    mv = [pp.create_bus(net, 20) for _ in range(3)]
    lv = [pp.create_bus(net, 10) for _ in range(3)]
    pp.create_ext_grid(net, hv, vm_pu=1.01)
    ratings = {
        "vn_hv_kv": 110, "vn_mv_kv": 20, "vn_lv_kv": 10, "sn_hv_mva": 40, "sn_mv_mva": 25, "sn_lv_mva": 15,
        "vk_hv_percent": 10, "vk_mv_percent": 11, "vk_lv_percent": 12, "vkr_hv_percent": 0.3, "vkr_mv_percent": 0.31,
        "vkr_lv_percent": 0.32, "pfe_kw": 30, "i0_percent": 0.1,
    }  # fmt: skip
    tap = {"tap_neutral": 0, "tap_min": -10, "tap_max": 10, "tap_step_percent": 1.5, "tap_step_degree": 0}
    tap["tap_changer_type"] = "Ratio"
    pp.create_transformer3w_from_parameters(
        net, hv, mv[0], lv[0], **ratings, **tap, tap_side="hv", tap_pos=-3, shift_mv_degree=30, shift_lv_degree=150
    )
    pp.create_transformer3w_from_parameters(
        net, hv, mv[1], lv[1], **ratings, **tap, tap_side="mv", tap_pos=4, tap_at_star_point=True, shift_mv_degree=30
    )
    pp.create_transformer3w_from_parameters(net, hv, mv[2], lv[2], **ratings, index=9)
    pp.create_switch(net, lv[2], 9, et="t3", closed=False)
    for bus in (*mv, *lv[:2]):
        pp.create_load(net, bus, 6, 1.5)
    cable = {"r_ohm_per_km": 0.1, "x_ohm_per_km": 0.12, "c_nf_per_km": 250, "max_i_ka": 0.3}
    pp.create_line_from_parameters(net, mv[0], mv[1], 8, **cable)
    return net
