"""Zero-sequence data where a source system has none: documented ratios, so that a net can be solved by phase at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

_LOW_KV = 1.0


def assume_zero_sequence(
    net: Any,
    *,
    r0_over_r: float = 4.0,
    x0_over_x: float = 4.0,
    c0_over_c: float = 0.6,
    s_sc_mva: float = 1000.0,
    rx: float = 0.1,
    group_to_low_voltage: str = "Dyn",
    group_to_medium_voltage: str = "YNd",
) -> Any:
    """A net with what is missing of its zero-sequence columns filled in; what it has stays, and so does the net given.

    Lines: ratios to the positive sequence; 4 is a four-core cable's with return through its neutral (r0 = r + 3 rN).
    Transformers: the positive sequence's leakage, magnetising impedance equal to it (three-limb core; mag0_percent 100,
    mag0_rx 0, si0_hv_partial 0.9), vector group by the secondary's voltage (1 kV and below is low). External grids:
    s_sc_mva, rx, x0 = x, r0/x0 = rx.
    """
    own = type(net)(net)
    _fill(own, "line", {
        "r0_ohm_per_km": lambda t: r0_over_r * t.r_ohm_per_km,
        "x0_ohm_per_km": lambda t: x0_over_x * t.x_ohm_per_km,
        "c0_nf_per_km": lambda t: c0_over_c * t.c_nf_per_km,
    })  # fmt: skip
    _fill(own, "trafo", {
        "vector_group": lambda t: np.where(t.vn_lv_kv <= _LOW_KV, group_to_low_voltage, group_to_medium_voltage),
        "vk0_percent": lambda t: t.vk_percent,
        "vkr0_percent": lambda t: t.vkr_percent,
        "mag0_percent": lambda t: 100.0,
        "mag0_rx": lambda t: 0.0,
        "si0_hv_partial": lambda t: 0.9,
    })  # fmt: skip
    _fill(own, "ext_grid", {
        "s_sc_max_mva": lambda t: s_sc_mva,
        "rx_max": lambda t: rx,
        "x0x_max": lambda t: 1.0,
        "r0x0_max": lambda t: rx,
    })  # fmt: skip
    return own


def _fill(net: Any, name: str, defaults: dict[str, Any]) -> None:
    table = net[name].copy()
    for column, value in defaults.items():
        filled = pd.Series(value(table), index=table.index)
        table[column] = table[column].where(table[column].notna(), filled) if column in table else filled
    net[name] = table
