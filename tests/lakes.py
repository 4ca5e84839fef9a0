"""A lake small enough for tests: two pandapower networks, two regions, two days, noise on every meter."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandapower.networks as networks
import pandas as pd
import pytest

from lib.ingest.demo import Region, build
from lib.ingest.source import SIMBENCH_START, Source, from_net
from lib.tables import Lake

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FIRST = date(2016, 1, 1)
DAYS = 2
NETS = {"north": "case33bw", "south": "cigre_mv"}


def net_of(region: str) -> Any:
    """The pandapower net of a tiny region, with profiles named."""
    net = networks.case33bw() if region == "north" else networks.create_cigre_network_mv(with_der="pv_wind")
    net.name = NETS[region]
    net.load["profile"], net.sgen["profile"] = "home", "sun"
    return net


def source_of(net: Any, days: int = 366) -> Source:
    """Two made-up daily curves, morning and evening peaks for loads, daylight for generators."""
    hour = np.arange(days * 96) / 4 % 24
    home = 0.45 + 0.25 * np.exp(-((hour - 8) ** 2) / 4) + 0.5 * np.exp(-((hour - 19) ** 2) / 6)
    sun = np.clip(np.cos((hour - 13) / 5), 0, None)
    profiles = {
        "load": pd.DataFrame({"home_pload": home, "home_qload": 0.9 * home}),
        "sgen": pd.DataFrame({"sun": sun}),
    }
    return from_net(net, profiles, SIMBENCH_START)


def tiny_region(root: Path, name: str, seed: int = 1, noise: float = 0.1, profile_days: int = 366) -> Region:
    """A region whose source lies in the lake's own folder, made if absent."""
    path = root / "_demo" / f"{NETS[name]}.npz"
    if not path.exists():
        source_of(net_of(name), profile_days).save(path)
    return Region(name, NETS[name], "Europe/Berlin", str(path), seed, noise)


def build_tiny_lake(spark: SparkSession, root: Path, days: int = DAYS, noise: float = 0.1) -> Lake:
    """Tables `network` and `snapshot_tile` of regions north (33 buses) and south (15 buses) under `root`."""
    lake = Lake(str(root))
    for _ in build(spark, lake, [tiny_region(root, name, noise=noise) for name in NETS], FIRST, days):
        pass
    return lake


@pytest.fixture(scope="session")
def tiny_lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The tiny lake, once a session, to read and to add results; to change its inputs, call build_tiny_lake."""
    return build_tiny_lake(spark, tmp_path_factory.mktemp("tiny") / "lake")
