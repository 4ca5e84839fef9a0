"""Transformers with taps on either side, an ideal phase shifter without iron, two in parallel, Dyn5 ones."""

import pandapower as pp


def make():
    net = pp.create_empty_network(sn_mva=10.0)
    hv = pp.create_bus(net, 110, index=7)
    mv = [pp.create_bus(net, 20, index=i) for i in (3, 12, 5)]
    lv = [pp.create_bus(net, 0.4, index=i) for i in (20, 21)]
    pp.create_ext_grid(net, hv, vm_pu=1.02, va_degree=10)
    ratio = {"tap_neutral": 0, "tap_min": -9, "tap_max": 9, "tap_changer_type": "Ratio"}
    common = {"vn_hv_kv": 110, "vkr_percent": 0.4, "vk_percent": 12, "pfe_kw": 25, "i0_percent": 0.2}
    pp.create_transformer_from_parameters(
        net,
        hv,
        mv[0],
        sn_mva=25,
        vn_lv_kv=21,
        tap_side="hv",
        tap_pos=-4,
        tap_step_percent=1.5,
        shift_degree=150,
        parallel=2,
        df=0.8,
        **common,
        **ratio,
    )
    pp.create_transformer_from_parameters(
        net,
        hv,
        mv[1],
        sn_mva=40,
        vn_lv_kv=20,
        tap_side="lv",
        tap_pos=3,
        tap_step_percent=1.2,
        shift_degree=150,
        tap_step_degree=60,
        **common,
        **ratio,
    )
    pp.create_transformer_from_parameters(
        net,
        mv[1],
        mv[2],
        sn_mva=20,
        vn_hv_kv=20,
        vn_lv_kv=20,
        vkr_percent=0.3,
        vk_percent=8,
        pfe_kw=0,
        i0_percent=0,
        tap_side="hv",
        tap_pos=2,
        tap_neutral=0,
        tap_min=-5,
        tap_max=5,
        tap_step_degree=1,
        tap_changer_type="Ideal",
    )
    for bus in lv:
        pp.create_transformer_from_parameters(
            net,
            mv[2],
            bus,
            sn_mva=0.63,
            vn_hv_kv=20.5,
            vn_lv_kv=0.41,
            vkr_percent=1.1,
            vk_percent=6,
            pfe_kw=1.2,
            i0_percent=0.3,
            shift_degree=150,
            leakage_resistance_ratio_hv=0.3,
            leakage_reactance_ratio_hv=0.7,
        )
        pp.create_load(net, bus, 0.3, 0.1)
    net.trafo = net.trafo.fillna({"leakage_resistance_ratio_hv": 0.5, "leakage_reactance_ratio_hv": 0.5})
    cable = {"r_ohm_per_km": 0.2, "x_ohm_per_km": 0.12, "c_nf_per_km": 250, "max_i_ka": 0.3}
    pp.create_line_from_parameters(net, mv[0], mv[1], 3, **cable)
    pp.create_line_from_parameters(net, mv[0], mv[2], 5, **cable)
    pp.create_load(net, mv[0], 8, 2)
    pp.create_sgen(net, mv[2], 3, -0.5)
    return net
