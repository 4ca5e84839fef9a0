"""The customers of a demo region: how loads are split into them, their meters, phases, ratios and registers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.ingest.landing.source import LandingSource

PHASES = ("A", "B", "C", "ABC")
THREE_PHASE = 3
REGISTER_DIGITS = 6
_SINGLE_PHASE_KW = 5.0
_GATE_RATIOS = np.array([10, 20, 40, 60, 80, 100, 120, 160, 200, 300, 400], dtype=np.float64)


@dataclass(frozen=True)
class Recipe:
    """What decides every byte of a region's landing, besides its source and the days."""

    region: str
    network_id: str
    time_zone: str
    seed: int
    noise: float
    zipf_s: float
    """Exponent of the customers' spread over areas; negative: one customer a load."""
    customers_per_load: int
    missing_share: float
    faulty_areas: float

    def stream(self, *words: object) -> np.random.Generator:
        """Random numbers of their own for seed, region and words: Philox (Salmon et al., SC'11) keyed by these."""
        text = "/".join(str(word) for word in ("landing", self.seed, self.region, *words))
        digest = hashlib.sha256(text.encode()).digest()
        return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8")))


@dataclass(frozen=True, eq=False)
class Customers:
    """Arrays of n customers, one meter each; generators are customers too."""

    meter: NDArray[np.int64]
    """(n,) position among the source's meters."""
    share: NDArray[np.float64]
    """(n,) share of that meter's power."""
    area: NDArray[np.int32]
    """(n,) true area, -1 at medium voltage."""
    phase: NDArray[np.int8]
    """(n,) position in PHASES."""
    ct_ratio: NDArray[np.float64]
    pt_ratio: NDArray[np.float64]
    base_wh: NDArray[np.float64]
    """(n,) Wh, primary: the register at the profiles' start."""
    meter_id: NDArray[np.str_]
    customer_id: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.meter)

    @property
    def ratio(self) -> NDArray[np.float64]:
        """(n,) primary energy of a counted one."""
        return self.ct_ratio * self.pt_ratio

    @property
    def step_wh(self) -> NDArray[np.float64]:
        """(n,) Wh, primary: smallest step of the register, 1 Wh of a direct meter, 0.01 Wh on the secondary side."""
        return np.where(self.ratio == 1, 1.0, 0.01 * self.ratio)


def split(source: LandingSource, recipe: Recipe) -> Customers:
    """Loads split into customers: one each, or so many that areas have customers by Zipf's law as far as limits allow.

    The area of rank r gets customers in proportion to r^-s, twice as many as loads in all, at least one and at most
    `customers_per_load` a load. Generators and medium-voltage loads stay whole.
    """
    random = recipe.stream("customers")
    count = np.ones(len(source.meter_row), dtype=np.int64)
    splits = ~source.meter_generates & (source.meter_area >= 0)
    if recipe.zipf_s >= 0:
        rank = 1.0 + random.permutation(source.n_area)
        wanted = rank**-recipe.zipf_s
        wanted *= 2 * splits.sum() / wanted.sum()
        for area in range(source.n_area):
            loads = np.flatnonzero(splits & (source.meter_area == area))
            if len(loads):
                total = int(np.clip(round(wanted[area]), len(loads), len(loads) * recipe.customers_per_load))
                count[loads] = total // len(loads) + (np.arange(len(loads)) < total % len(loads))
    meter = np.repeat(np.arange(len(count)), count)
    share = random.uniform(0.5, 1.5, len(meter))
    share /= np.bincount(meter, weights=share)[meter]
    number = np.arange(len(meter)) - (np.cumsum(count) - count)[meter]
    small = np.abs(source.meter_p_kw[meter]) * share < _SINGLE_PHASE_KW
    of_area = source.meter_area[meter]
    phase = np.where(small & (of_area >= 0), random.integers(0, THREE_PHASE, len(meter)), THREE_PHASE)
    medium = of_area < 0
    vn_kv = source.solver_network.vn_kv[source.meter_row[meter]]
    return Customers(
        meter=meter,
        share=share,
        area=of_area,
        phase=phase.astype(np.int8),
        ct_ratio=np.where(medium, 20.0, 1.0),
        pt_ratio=np.where(medium, vn_kv * 10, 1.0),  # to 100 V
        base_wh=np.where(medium, 1e9, random.uniform(0, 5e7, len(meter))),
        meter_id=np.array([f"{recipe.region}-m{m:06d}-{k}" for m, k in zip(meter, number, strict=True)]),
        customer_id=np.array([f"{recipe.region}-c{m:06d}-{k}" for m, k in zip(meter, number, strict=True)]),
    )


def gate_ratio(source: LandingSource) -> NDArray[np.float64]:
    """(n_area,) CT ratio of each gate meter: the smallest usual one, to 5 A, that takes 1.2 times the rated current."""
    rated_a = source.area_rated_kva / (np.sqrt(3) * source.solver_network.vn_kv[source.area_row])
    return _GATE_RATIOS[np.minimum(np.searchsorted(_GATE_RATIOS, 1.2 * rated_a / 5), len(_GATE_RATIOS) - 1)]


def transformer_ids(source: LandingSource, region: str) -> list[str]:
    """(n_area,) transformer_id."""
    return [f"{region}-t{element:05d}" for element in source.area_element]


def gate_ids(source: LandingSource, region: str) -> list[str]:
    """(n_area,) meter_id of each transformer's gate meter."""
    return [f"{region}-g{element:05d}" for element in source.area_element]
