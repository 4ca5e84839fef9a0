from __future__ import annotations

from pathlib import Path

import pytest

from lib.errors import SettingsError
from lib.settings import ROOT, Settings, flatten, load, load_with_origins


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A conf folder whose files set two keys each, one of them twice."""
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "base.yaml").write_text("demo:\n  days: 3\n  seed: 4\n")
    (folder / "local.yaml").write_text("demo:\n  days: 5\n")
    (folder / "cluster.yaml").write_text("demo:\n  days: 6\n")
    return folder


def problems(conf: Path, overrides: list[str], environment: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(overrides, environment, conf=conf)
    assert caught.value.exit_code == 2
    return caught.value.problems


def test_later_layers_win(conf: Path) -> None:
    assert load([], {}, conf=conf).demo.days == 5
    assert load([], {"GRIDSINK_DEMO__DAYS": "7"}, conf=conf).demo.days == 7
    assert load(["demo.days=8"], {"GRIDSINK_DEMO__DAYS": "7"}, conf=conf).demo.days == 8
    assert load(["demo.days=8"], {}, conf=conf).demo.seed == 4


def test_master_chooses_the_profile(conf: Path) -> None:
    assert load(["spark.master=spark://host:7077"], {}, conf=conf).demo.days == 6
    assert load(["spark.master=spark://host:7077"], {}, profile="local", conf=conf).demo.days == 5


def test_every_value_has_its_origin(conf: Path) -> None:
    environment = {"GRIDSINK_DEMO__NOISE": "0.2"}
    rows = load_with_origins(["solve.fallback=false"], environment, conf=conf).rows()
    source = {row["key"]: row["source"] for row in rows}
    assert source["demo.days"] == "conf/local.yaml:2"
    assert source["demo.seed"] == "conf/base.yaml:3"
    assert source["demo.noise"] == "environment GRIDSINK_DEMO__NOISE"
    assert source["solve.fallback"] == "--set"
    assert source["solve.tolerance"] == "default"


def test_all_problems_at_once_with_file_line_and_key(conf: Path) -> None:
    (conf / "base.yaml").write_text("demo:\n  dayz: 3\n")
    (conf / "local.yaml").write_text("solve:\n  tolerance: much\n")
    found = problems(conf, ["lake=x", "nonsense"], {"GRIDSINK_LAKE__PTH": "/data", "GRIDSINK_DEMO__DAYS": "999"})
    assert len(found) == 6
    text = "\n".join(found)
    assert "conf/base.yaml:2: demo.dayz: unknown key; did you mean days?" in text
    assert "conf/local.yaml:2: solve.tolerance: " in text
    assert "--set: lake: is a group of settings" in text
    assert "--set nonsense: write it as key=value" in text
    assert "environment GRIDSINK_LAKE__PTH: lake.pth: unknown key; did you mean path?" in text
    assert "environment GRIDSINK_DEMO__DAYS: demo.days: " in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("demo: [1, 2]\n", "conf/base.yaml:1: demo: is a group of settings"),
        ("demo: {days: 1\n", "conf/base.yaml: cannot be read as YAML"),
        ("- demo\n", "conf/base.yaml: must hold keys and values"),
        ("demo:\n  seed: 1\n  seed: 2\n", "conf/base.yaml:3: demo.seed: given twice, first in line 2"),
        (
            "regions:\n  north:\n    time_zone: Mars/Olympus\n",
            "conf/base.yaml:3: regions.north.time_zone: 'Mars/Olympus'",
        ),
        ("regions:\n  north:\n    time_zone: UTC\n", "conf/base.yaml:3: regions.north.simbench_code: is missing"),
        ("solve:\n  v_min_pu: 1.2\n", "must be below v_max_pu"),
    ],
)
def test_bad_files(conf: Path, text: str, expected: str) -> None:
    (conf / "base.yaml").write_text(text)
    assert any(expected in problem for problem in problems(conf, [], {}))


def test_unknown_profile(conf: Path) -> None:
    with pytest.raises(SettingsError, match=r"no conf/moon.yaml; profiles are cluster, local"):
        load([], {}, profile="moon", conf=conf)


def test_spark_properties_keep_their_dots(conf: Path) -> None:
    settings = load(["spark.conf.spark.sql.shuffle.partitions=3", "demo={seed: 9}"], {}, conf=conf)
    assert settings.spark.conf == {"spark.sql.shuffle.partitions": "3"}
    assert settings.demo.seed == 9


def test_relative_lake_is_the_checkouts_in_files_and_the_shells_elsewhere(
    conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load([], {}, conf=conf).lake.path == str(ROOT / ".gridsink/lake")
    assert load(["lake.path=mine"], {}, conf=conf).lake.path == str(tmp_path / "mine")
    assert load(["lake.path=hdfs://name/lake"], {}, conf=conf).lake.path == "hdfs://name/lake"


def test_settings_survive_json() -> None:
    settings = load([], {})
    assert Settings(**settings.model_dump(mode="json")) == settings


def test_every_key_is_documented() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    for key, _ in flatten(load([], {}, profile="local").model_dump(mode="json")):
        general = key.replace(key.split(".")[1], "<name>", 1) if key.startswith("regions.") else key
        general = "spark.conf" if general.startswith("spark.conf") else general
        assert f"`{general}`" in text, general
