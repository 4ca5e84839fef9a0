"""Settings: one typed model, filled from layers, each value with its origin.

Layers, later ones win: conf/base.yaml, conf/<profile>.yaml (local or cluster, chosen by the master, or --profile), the
environment (GRIDSINK_LAKE__PATH=/data/lake), then --set lake.path=/data/lake. Defaults are in the model below.
"""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lib.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
STATE = ROOT / ".gridsink"  # what a checkout makes for itself: JARs, compiled kernels, logs, the default lake
ENV_PREFIX = "GRIDSINK_"


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
    register_slots: int = Field(88, ge=1, le=88, description="longest gap of a cumulative register that is shared out")
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


class Settings(BaseSettings):
    """Everything a run can be told, apart from a job's own options."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__", env_ignore_empty=True
    )

    lake: LakeSettings = LakeSettings()
    regions: dict[str, RegionSettings] = {}
    demo: DemoSettings = DemoSettings()
    landing: LandingSettings = LandingSettings()
    ingest: IngestSettings = IngestSettings()
    solve: SolveSettings = SolveSettings()
    preload: PreloadSettings = PreloadSettings()
    baseline: BaselineSettings = BaselineSettings()
    spark: SparkSettings = SparkSettings()
    max_quarantine: int = Field(0, ge=0, description="quarantined rows a run may have; above it the exit code is 3")

    @classmethod
    def settings_customise_sources(  # type: ignore[override]
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `load` merges the layers itself, to know where each value came from


@dataclass(frozen=True)
class Loaded:
    """Settings and the origin of each value: dotted key -> 'conf/base.yaml:3', 'environment NAME', '--set'."""

    settings: Settings
    origins: dict[str, str]

    def rows(self) -> list[dict[str, str]]:
        """One row (key, value, source) per setting, in the model's order."""
        values = dict(flatten(self.settings.model_dump(mode="json"), Settings))
        return [
            {"key": key, "value": "" if value is None else str(value), "source": self.origins.get(key, "default")}
            for key, value in values.items()
        ]


def load(
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    profile: str | None = None,
    conf: Path = CONF,
) -> Settings:
    """The settings of a run; see `load_with_origins`."""
    return load_with_origins(overrides, environment, profile, conf).settings


def load_with_origins(
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    profile: str | None = None,
    conf: Path = CONF,
) -> Loaded:
    """Merge the layers and check them.

    overrides: `key=value` texts of --set. environment: os.environ unless given. profile: name of a file in conf;
    without it `local` for a local master and `cluster` for any other. Raises SettingsError with every problem at once.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def add(layer: list[tuple[str, Any, str]]) -> None:
        for key, value, origin in layer:
            if _is_group(key) and not isinstance(value, Mapping):
                problems.append(f"{origin}: {key}: is a group of settings, not a value; set {key}.<name>")
            else:
                values[key], origins[key] = value, origin

    base = _read_file(conf / "base.yaml", problems)
    above = _read_environment(os.environ if environment is None else environment, problems)
    above += _read_overrides(overrides, problems)
    masters = [value for key, value, _ in base + above if key == "spark.master"]
    if profile is None:
        profile = "local" if not masters or str(masters[-1]).startswith("local") else "cluster"
    elif not (conf / f"{profile}.yaml").is_file():
        names = ", ".join(sorted(path.stem for path in conf.glob("*.yaml") if path.stem != "base"))
        problems.append(f"--profile: there is no conf/{profile}.yaml; profiles are {names}")
    for layer in (base, _read_file(conf / f"{profile}.yaml", problems), above):
        add(layer)

    settings = None
    try:
        settings = Settings(**_nest(values))
    except ValidationError as error:
        for item in error.errors():
            key, origin = _trace(item, origins)
            problems.append(f"{origin}: {key}: {_explain(item)}")
    if settings is None or problems:
        raise SettingsError(problems)
    for group in ("lake", "landing"):
        path = getattr(settings, group).path
        if "://" not in path and not Path(path).is_absolute():
            # A path written in a file means the checkout, one typed in a shell means the current folder.
            typed = origins.get(f"{group}.path", "default").startswith(("environment", "--set"))
            absolute = {"path": str((Path.cwd() if typed else ROOT) / path)}
            settings = settings.model_copy(update={group: getattr(settings, group).model_copy(update=absolute)})
    return Loaded(settings, origins)


def flatten(tree: Mapping[str, Any], model: Any = Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf; a leaf is what the model does not describe as a group."""
    for name, value in tree.items():
        inner = _inner(model, str(name))
        if isinstance(value, Mapping) and (value or inner is not None):
            yield from flatten(value, inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_group(key: str) -> bool:
    model: Any = Settings
    for part in _parts(key):
        model = _inner(model, part)
    return model is not None


def _inner(model: Any, name: str) -> Any:
    """What is below `name` in `model`: a group, a dict annotation, or None for a leaf or an unknown key."""
    if typing.get_origin(model) is dict:
        inner = typing.get_args(model)[1]
    elif isinstance(model, type) and issubclass(model, BaseModel) and name in model.model_fields:
        inner = model.model_fields[name].annotation
    else:
        return None
    group = isinstance(inner, type) and issubclass(inner, BaseModel)
    return inner if group or typing.get_origin(inner) is dict else None


def _parts(key: str) -> list[str]:
    """Split a dotted key; what follows a dict of plain values (spark.conf) is one part, dots and all."""
    parts, model, rest = [], Settings, key
    while "." in rest:
        if typing.get_origin(model) is dict and typing.get_args(model)[1] is str:
            break
        name, rest = rest.split(".", 1)
        parts.append(name)
        model = _inner(model, name)
    return [*parts, rest]


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *groups, last = _parts(key)
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return tree


def _read_file(path: Path, problems: list[str]) -> list[tuple[str, Any, str]]:
    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        tree, root = yaml.safe_load(text), yaml.compose(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"{name}: cannot be read as YAML: {' '.join(str(error).split())}")
        return []
    if tree is None:
        return []
    if not isinstance(tree, dict):
        problems.append(f"{name}: must hold keys and values, not a {type(tree).__name__}")
        return []
    lines = _lines(root, "", name, problems)
    return [(key, value, f"{name}:{lines.get(key, 1)}") for key, value in flatten(tree)]


def _lines(node: Any, prefix: str, name: str, problems: list[str]) -> dict[str, int]:
    """Line of every key; a key given twice is a problem, since YAML would silently keep the last."""
    found: dict[str, int] = {}
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        line = key_node.start_mark.line + 1
        if key in found:
            problems.append(f"{name}:{line}: {key}: given twice, first in line {found[key]}")
        found[key] = line
        if isinstance(value_node, yaml.MappingNode):
            found |= _lines(value_node, f"{key}.", name, problems)
    return found


def _read_environment(environment: Mapping[str, str], problems: list[str]) -> list[tuple[str, Any, str]]:
    ours = {name: value for name, value in environment.items() if name.startswith(ENV_PREFIX)}
    layer = []
    for name, value in ours.items():
        key = name[len(ENV_PREFIX) :].lower().replace("__", ".")
        layer.append((key, _typed(value, f"environment {name}", problems), f"environment {name}"))
    return _spread(layer)


def _spread(layer: list[tuple[str, Any, str]]) -> list[tuple[str, Any, str]]:
    """A group given as one {…} becomes one entry a leaf, like the same group in a file."""
    spread = []
    for key, value, origin in layer:
        if isinstance(value, Mapping):
            spread += [(leaf, inner, origin) for leaf, inner in flatten(_nest({key: value}))]
        else:
            spread.append((key, value, origin))
    return spread


def _read_overrides(overrides: Sequence[str], problems: list[str]) -> list[tuple[str, Any, str]]:
    layer = []
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key:
            problems.append(f"--set {text}: write it as key=value")
        else:
            layer.append((key.strip(), _typed(value, f"--set {key}", problems), "--set"))
    return _spread(layer)


def _typed(text: str, where: str, problems: list[str]) -> Any:
    """A text as the model takes it: {…} and […] are YAML, an empty text is 'not set', pydantic converts the rest."""
    if text[:1] not in ("{", "["):
        return text or None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        problems.append(f"{where}: '{text}' is no YAML")
        return text


def _trace(item: Any, origins: Mapping[str, str]) -> tuple[str, str]:
    """The key as written and its origin: a missing key has its neighbours', an unknown group its keys'."""
    key = ".".join(str(part) for part in item["loc"])
    if key in origins:
        return key, origins[key]
    prefix = key.rpartition(".")[0] if item["type"] == "missing" else key
    below = next((other for other in origins if other.startswith(f"{prefix}.")), None)
    if below is None:
        return key, "default"
    return (below if item["type"] == "extra_forbidden" else key), origins[below]


def _explain(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        model: Any = Settings
        parts = [str(part) for part in item["loc"]]
        for group in parts[:-1]:
            model = _inner(model, group)
        known = list(getattr(model, "model_fields", {}))
        near = difflib.get_close_matches(parts[-1], known, 1)
        return "unknown key" + (f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(known)}")
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return "is missing"
    return message if "'" in message or item["type"] == "value_error" else f"{message}, not {item['input']!r}"
