"""Settings: one typed model, filled from layers, each value with its origin.

Layers, later ones win: conf/base.yaml, conf/<profile>.yaml (local or cluster, chosen by the master, or --profile), the
environment (GRIDSINK_LAKE__PATH=/data/lake), then --set lake.path=/data/lake. Defaults are in lib/setting_groups.py.
"""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lib.errors import SettingsError
from lib.setting_groups import (
    BaselineSettings,
    DemoSettings,
    EstimateSettings,
    IngestSettings,
    LakeSettings,
    LandingSettings,
    MiningSettings,
    PreloadSettings,
    RegionSettings,
    SolveSettings,
    SparkSettings,
)

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
STATE = ROOT / ".gridsink"  # what a checkout makes for itself: JARs, compiled kernels, logs, the default lake
ENV_PREFIX = "GRIDSINK_"


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
    estimate: EstimateSettings = EstimateSettings()
    mining: MiningSettings = MiningSettings()
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
