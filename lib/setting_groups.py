"""The groups of settings: what each value is, its default and its range."""

from __future__ import annotations

import typing
from datetime import date
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except Exception as error:
        raise ValueError(f"'{name}' is no time zone; use an IANA name such as Europe/Berlin") from error
    return name


def _known_memory(text: str) -> str:
    if not (text[:-1].isdigit() and text[-1:] in "kmgt"):
        raise ValueError(f"'{text}' is no memory size; write 512m or 2g")
    return text


TimeZone = Annotated[str, AfterValidator(_known_zone)]
Memory = Annotated[str, AfterValidator(_known_memory)]


class Group(BaseModel):
    """Base of every group of settings: unknown keys are refused, values cannot change during a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LakeSettings(Group):
    path: str = Field(".gridsink/lake", description="folder or URL of the lake")


class RegionSettings(Group):
    simbench_code: str = Field(description="SimBench network the demo lake takes for this region")
    time_zone: TimeZone = Field(description="time zone of the region's civil days")


class DemoSettings(Group):
    auto: bool = Field(True, description="build the demo lake where a job finds no lake")
    start: date = Field(date(2016, 1, 1), description="first day of the demo lake")
    days: int = Field(7, ge=1, le=366, description="days of the demo lake")
    seed: int = Field(1, ge=0, description="seed of the noise on each meter")
    noise: float = Field(0.1, ge=0, lt=1, description="relative standard deviation of the noise on each meter")


class LandingSettings(Group):
    path: str = Field(".gridsink/landing", description="folder of <region>/<source>/ with the source systems' files")
    regions: list[str] = Field(["rural", "urban"], description="regions of the demo landing")
    zipf_regions: list[str] = Field(["urban", "comm"], description="those whose areas have customers by Zipf's law")
    zipf_s: float = Field(1.0, ge=0, le=3, description="exponent of that law")
    start: date = Field(date(2016, 1, 1), description="first day of the demo landing")
    days: int = Field(2, ge=1, le=365, description="days of the demo landing")
    seed: int = Field(1, ge=0, description="seed of customers, noise and faults")
    noise: float = Field(0.1, ge=0, lt=1, description="relative standard deviation of the noise on each meter")
    customers_per_load: int = Field(40, ge=1, description="most customers that one load of the network is split into")
    missing_share: float = Field(0.02, ge=0, le=0.15, description="share of customers' values that are missing")
    faulty_areas: float = Field(0.3, ge=0, le=1, description="share of areas with a fault that shows in the line loss")


class SourceSettings(Group):
    encoding: str = Field("utf-8-sig", description="encoding of the source's text files")
    separator: str = Field(",", min_length=1, max_length=1, description="separator of the source's CSV files")
    rename: dict[str, str] = Field({}, description="names of columns: name in the file to name in docs/sources.md")


class RuleSettings(Group):
    # A day's estimates must depend on the days beside it alone, the shortest of which has 92 quarter-hours.
    linear_slots: int = Field(4, ge=0, le=88, description="longest gap that is filled on the line between its ends")
    week_slots: int = Field(88, ge=0, le=88, description="longest gap that is filled by the values a week before")
    register_slots: int = Field(
        100, ge=0, le=200, description="longest time between two readings of a register whose energy fills gaps"
    )
    spike_factor: float = Field(10, gt=1, description="a spike exceeds the day's 90 % quantile by this factor")
    spike_floor_kw: float = Field(25, ge=0, description="power, and energy as mean power, below it is never a spike")
    spike_slots: int = Field(2, ge=1, description="more values of a day above the limit than this are no spike")
    spike_voltage_factor: float = Field(1.3, gt=1, description="as spike_factor, for voltages")
    frozen_slots: int = Field(24, ge=2, description="equal values in a row that are suspect")
    negative_power: bool = Field(False, description="accept negative power of customers without an export register")


class IngestSettings(Group):
    first: date = Field(date(2000, 1, 1), description="rows of earlier days are refused")
    last: date = Field(date(2099, 12, 31), description="rows of later days are refused")
    rows_per_task: int = Field(500_000, ge=1, description="readings that one task takes at a time")
    least_share: float = Field(
        0.95, ge=0, le=1, description="share of a network's meters that must have a value for a slot to be solved"
    )
    retention_hours: float = Field(168, ge=0, description="VACUUM keeps files this long; longer than the longest run")
    rules: RuleSettings = RuleSettings()
    sources: dict[str, SourceSettings] = Field({}, description="peculiarities of a source's files, by its name")


class SolveSettings(Group):
    tolerance: float = Field(1e-8, gt=0, le=1e-3, description="bound of the voltage error, per unit")
    max_iterations: int = Field(12, ge=1, description="linear solves before a snapshot goes to Newton's method")
    fallback: bool = Field(True, description="solve what the sweep cannot with Newton's method")
    v_min_pu: float = Field(0.9, gt=0, description="lower edge of the voltage band, per unit")
    v_max_pu: float = Field(1.1, gt=0, description="upper edge of the voltage band, per unit")
    heavy_percent: float = Field(80, gt=0, description="heavy load above this loading")
    overload_percent: float = Field(100, gt=0, description="overload above this loading")

    @model_validator(mode="after")
    def _ordered(self) -> SolveSettings:
        if self.v_min_pu >= self.v_max_pu:
            raise ValueError(f"v_min_pu {self.v_min_pu} must be below v_max_pu {self.v_max_pu}")
        if self.heavy_percent > self.overload_percent:
            raise ValueError(
                f"heavy_percent {self.heavy_percent} must not exceed overload_percent {self.overload_percent}"
            )
        return self


class EstimateSettings(Group):
    power_class_percent: float = Field(1, gt=0, le=100, description="active power: class, limit in % of the reading")
    reactive_class_percent: float = Field(2, gt=0, le=100, description="reactive power: limit in % of the reading")
    voltage_class_percent: float = Field(0.5, gt=0, le=100, description="voltage: limit in % of the nominal one")
    power_floor_kw: float = Field(0.05, gt=0, description="a power's limit of error is no less, kW or kvar")
    pseudo_percent: float = Field(50, gt=0, description="standard deviation of powers that are missing, % of the mean")
    set_point_percent: float = Field(1, gt=0, le=100, description="limit of the error of the model's set-points, %")
    bad_data_alpha: float = Field(0.005, gt=0, lt=1, description="probability that a clean snapshot loses a value")
    tolerance: float = Field(1e-8, gt=0, le=1e-3, description="bound of the voltage error, per unit")
    max_iterations: int = Field(30, ge=1, description="linear solves before a snapshot gets a matrix of its own")


class LineLossSettings(Group):
    normal_urban_percent: float = Field(7, ge=0, le=100, description="highest normal loss of an urban area")
    normal_rural_percent: float = Field(10, ge=0, le=100, description="highest normal loss of any other area")
    negative_percent: float = Field(-1, ge=-100, le=0, description="a loss below it is no metering noise")
    min_coverage_percent: float = Field(98, ge=0, le=100, description="share of meters needed to judge an area")
    max_estimated_percent: float = Field(2, ge=0, le=100, description="most estimated energy in the energy in")


class TransformerLoadSettings(Group):
    heavy_percent: float = Field(80, gt=0, description="load above it is heavy, % of the rating")
    heavy_points: int = Field(3, ge=1, description="points in a row from which on it is a heavy load")
    overload_percent: float = Field(100, gt=0, description="load above it is an overload, % of the rating")
    overload_points: int = Field(1, ge=1, description="points in a row from which on it is an overload")
    min_coverage_percent: float = Field(98, ge=0, le=100, description="share of points needed to call a day normal")


class VoltageQualitySettings(Group):
    nominal_v: float = Field(230, gt=0, description="low voltage: nominal, phase to neutral, V")
    medium_nominal_kv: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (10.0, 20.0), min_length=1, description="medium voltage: nominal between phases, the nearest counts, kV"
    )
    low_percent: float = Field(10, ge=0, le=100, description="single-phase supply: voltage may be so far below")
    high_percent: float = Field(7, ge=0, le=100, description="single-phase supply: voltage may be so far above")
    three_phase_percent: float = Field(7, ge=0, le=100, description="three-phase supply: may be so far off")
    outage_percent: float = Field(5, ge=0, le=100, description="below this part of the nominal there is no supply")
    episode_points: int = Field(1, ge=1, description="points in a row that make an episode outside the limits")
    unbalance_percent: float = Field(2, ge=0, le=100, description="highest deviation of a phase from their mean")
    imbalance_percent: float = Field(15, ge=0, le=100, description="highest (Imax - Imin) / Imax of a transformer")
    imbalance_load_percent: float = Field(30, ge=0, le=100, description="load above which currents are judged")
    min_pass_percent: float = Field(95, ge=0, le=100, description="an area's least share of time within limits")
    min_coverage_percent: float = Field(90, ge=0, le=100, description="share of meters needed to call it normal")


class MiningSettings(Group):
    price_per_kwh: float = Field(0.3, ge=0, description="price of the energy at stake, in the utility's currency")
    line_loss: LineLossSettings = LineLossSettings()
    transformer_load: TransformerLoadSettings = TransformerLoadSettings()
    voltage_quality: VoltageQualitySettings = VoltageQualitySettings()


class PreloadSettings(Group):
    worker_memory: Memory = Field(
        "256m", description="what a Python worker may hold of rows, besides the topologies that it keeps"
    )

    @property
    def worker_bytes(self) -> int:
        """`worker_memory` in bytes."""
        return int(self.worker_memory[:-1]) << {"k": 10, "m": 20, "g": 30, "t": 40}[self.worker_memory[-1]]


class BaselineSettings(Group):
    sample_snapshots: int = Field(
        8, ge=1, description="snapshots per network that pandapower's loop solves; its time is scaled to all of them"
    )


class SparkSettings(Group):
    master: str = Field("local[*]", description="Spark master: local[*], spark://…, yarn or k8s://…")
    deploy_mode: typing.Literal["client", "cluster"] = Field("client", description="where the driver runs")
    driver_memory: Memory = Field("1g", description="heap of the driver")
    executor_memory: Memory = Field("2g", description="heap of an executor; its Python workers come on top")
    executor_cores: int | None = Field(None, ge=1, description="cores of an executor; empty: the master's default")
    executors: int | None = Field(None, ge=1, description="number of executors (YARN, Kubernetes)")
    python: str | None = Field(None, description="Python of the executors; empty: this checkout's .venv")
    kernel_cache: str = Field(
        "gridsink-kernels",
        description="folder for compiled kernels on a cluster's nodes, writable by Spark's user alone",
    )
    conf: dict[str, str] = Field({}, description="further Spark properties, passed on as they are")
