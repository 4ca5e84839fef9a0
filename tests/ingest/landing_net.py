"""A region small enough to write its landing in tests: eight low-voltage areas under one substation."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from functools import cache
from typing import Any

import numpy as np
import pandapower
import pandas as pd

from lib.ingest.landing.customers import Recipe
from lib.ingest.landing.region import DemoRegion
from lib.ingest.landing.source import LandingSource, landing_source
from lib.ingest.source import SIMBENCH_START

AREAS, LOADS = 8, 10
FIRST = date(2016, 1, 1)
RECIPE = Recipe(
    region="north", network_id="small", time_zone="Europe/Berlin", seed=1, noise=0.1, zipf_s=-1.0,
    customers_per_load=40, missing_share=0.02, faulty_areas=0.5,
)  # fmt: skip


def net() -> Any:
    """110 kV, a 20 kV ring that is open, eight areas with a chain of loads each and a generator at its end."""
    it = pandapower.create_empty_network(name="small")
    top = pandapower.create_bus(it, 110)
    pandapower.create_ext_grid(it, top)
    before = pandapower.create_bus(it, 20)
    pandapower.create_transformer(it, top, before, "25 MVA 110/20 kV")
    pandapower.create_load(it, before, 0.2, 0.05)
    start = before
    for area in range(AREAS):
        upper = pandapower.create_bus(it, 20, geodata=(11 + area / 100, 53.0))
        pandapower.create_line(it, before, upper, 0.8, "NA2XS2Y 1x150 RM/25 12/20 kV")
        low = pandapower.create_bus(it, 0.4, geodata=(11 + area / 100, 53.0))
        pandapower.create_transformer(it, upper, low, "0.25 MVA 20/0.4 kV")
        before, at = upper, low
        for load in range(LOADS):
            bus = pandapower.create_bus(it, 0.4)
            pandapower.create_line(it, at, bus, 0.03, "NAYY 4x150 SE")
            pandapower.create_load(it, bus, 0.003 + 0.001 * ((load + area) % 5), 0.001)
            at = bus
        pandapower.create_sgen(it, at, 0.004)
    ring = pandapower.create_line(it, before, start, 1.0, "NA2XS2Y 1x150 RM/25 12/20 kV")
    pandapower.create_switch(it, before, ring, "l", closed=False)
    it.load["profile"], it.sgen["profile"] = "home", "sun"
    return it


@cache
def source() -> LandingSource:
    hour = np.arange(366 * 96) / 4 % 24
    home = 0.45 + 0.25 * np.exp(-((hour - 8) ** 2) / 4) + 0.5 * np.exp(-((hour - 19) ** 2) / 6)
    sun = np.clip(np.cos((hour - 13) / 5), 0, None)
    loads = pd.DataFrame({"home_pload": home, "home_qload": 0.9 * home})
    return landing_source(net(), {"load": loads, "sgen": pd.DataFrame({"sun": sun})}, SIMBENCH_START)


def region(first: date = FIRST, days: int = 2, **recipe: Any) -> DemoRegion:
    return DemoRegion(source(), replace(RECIPE, **recipe), first, days)
