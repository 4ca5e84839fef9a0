"""The demo landing's files against docs/sources.md, read from the page itself."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandapower
import pandas as pd
import pyarrow.parquet as pq
import pytest

from lib.ingest.landing import files
from lib.ingest.landing.build import write_day, write_master
from lib.settings import ROOT
from tests.ingest.landing_net import net, region

PAGE = (ROOT / "docs" / "sources.md").read_text()
FEEDS = {
    "meters": ("readings", "curves", "devices", "events"),
    "customers": ("customers",),
    "assets": ("transformers", "connections", "networks"),
    "telemetry": ("telemetry",),
    "switches": ("switches",),
    "alarms": ("alarms",),
    "outages": ("outages",),
}
NAME = re.compile(r"([a-z]+)-\d{8}T\d{6}Z(-[A-Za-z0-9_]+)?\.(csv|csv\.gz|jsonl|jsonl\.gz|parquet)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    it = region(days=2)
    write_master(it, root / "north", root / "truth")
    for day in it.days:
        write_day(it, day, root / "north", root / "truth")
    return root / "north"


def columns_of(feed: str) -> dict[str, tuple[str, bool]]:
    """Column -> type, required, as the page has them."""
    start = PAGE.index(f"**{feed}**") if f"**{feed}**" in PAGE else PAGE.index(f"\n## {feed}\n")
    table = PAGE[PAGE.index("| column |", start) :].split("\n\n")[0].splitlines()[2:]
    found = {}
    for line in table:
        names, kind, required, _ = (cell.strip() for cell in line.strip("|").split("|", 3))
        needed = [word.strip() == "yes" for word in required.split(",")]
        for k, name in enumerate(re.findall(r"`(\w+)`", names)):
            found[name] = (kind, needed[min(k, len(needed) - 1)])
    return found


def rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        yield from pq.read_table(path).to_pylist()
        return
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = data.decode("utf-8")
    if ".jsonl" in path.name:
        yield from map(json.loads, text.splitlines())
    else:
        yield from csv.DictReader(io.StringIO(text))


def check(value: Any, kind: str) -> None:
    """Raises where the value is not of the page's type; CSV's texts are parsed."""
    if kind == "timestamp":
        at = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        assert 2015 <= at.year <= 2016
    elif kind == "date":
        date.fromisoformat(value)
    elif kind == "double":
        float(value)
    elif kind == "int":
        assert int(value) == float(value)
    elif kind == "boolean":
        assert value in (True, False, "true", "false")
    elif kind == "list of double":
        assert all(number is None or isinstance(number, float | int) for number in value)
    else:
        assert isinstance(value, str)
        assert value


def test_every_feed_is_there_and_nothing_else(folder: Path) -> None:
    found = {path.name: {NAME.fullmatch(file.name)[1] for file in path.glob("*.*")} for path in folder.iterdir()}  # type: ignore[index]
    assert found == {source: set(feeds) for source, feeds in FEEDS.items()}


@pytest.mark.parametrize(("source", "feed"), [(source, feed) for source, feeds in FEEDS.items() for feed in feeds])
def test_columns_and_types_are_those_of_the_page(folder: Path, source: str, feed: str) -> None:
    columns = columns_of(feed)
    paths = list((folder / source).glob(f"{feed}-*"))
    assert paths
    for path in paths:
        sample = list(rows(path))
        assert sample, path.name
        for row in [*sample[:200], *sample[-200:]]:
            assert set(row) <= set(columns), path.name
            for name, (kind, required) in columns.items():
                if row.get(name) in (None, ""):
                    assert not required, f"{path.name}: {name} is missing"
                else:
                    check(row[name], kind.removesuffix(", or string").replace("list of string", "string"))


def test_allowed_values_are_those_of_the_page(folder: Path) -> None:
    registers = set(re.findall(r"`(\w+)`", PAGE[PAGE.index("| register |") : PAGE.index("`phase`: `A`")]))
    for path in (folder / "meters").glob("[cr]*-*"):
        for row in rows(path):
            assert row["register"] in registers
            assert row["phase"] in ("A", "B", "C", "ABC")
            assert row["phase"] == "ABC" or row["register"] in ("u_v", "i_a")
            assert row["quality"] in ("good", "suspect")


def test_the_model_is_the_net_and_holds_every_element_named(folder: Path) -> None:
    network = next(rows(next((folder / "assets").glob("networks-*"))))
    model = pandapower.from_json(str(folder / "assets" / "networks" / network["file"]))
    assert pandapower.toolbox.nets_equal(model, net())
    for feed, column, table in (("transformers", "element", "trafo"), ("connections", "bus", "bus")):
        named = {int(row[column]) for path in (folder / "assets").glob(f"{feed}-*") for row in rows(path)}
        assert named <= set(model[table].index)
    low = set(model.trafo.index[model.trafo.vn_lv_kv < 1])
    assert {int(row["element"]) for row in rows(next((folder / "assets").glob("transformers-*")))} == low
    for row in rows(next((folder / "telemetry").glob("*"))):
        assert row["element"] in model[row["element_type"]].index
    for row in rows(next((folder / "switches").glob("*"))):
        assert model.switch.closed[int(row["element"])] == (row["closed"] == "true")


def test_customers_hang_where_pandapower_traces_them(folder: Path) -> None:
    """The transformer of each meter by pandapower's own search for what a transformer supplies, faults apart."""
    model = net()
    lines = {
        int(row["element"]): row["transformer_id"] for row in rows(next((folder / "assets").glob("transformers-*")))
    }
    faults = (
        pd.read_parquet(folder.parent / "truth" / "faults").query("kind == 'wrong_transformer'").set_index("meter_id")
    )
    supplied: dict[int, str] = {}
    for element, transformer in lines.items():
        cut = net()
        cut.trafo.loc[element, "in_service"] = False
        dark = pandapower.topology.unsupplied_buses(cut)
        supplied |= {int(bus): transformer for bus in dark}
    bus = {row["meter_id"]: int(row["bus"]) for row in rows(next((folder / "assets").glob("connections-*")))}
    assert set(bus.values()) <= set(model.bus.index)
    for row in rows(next((folder / "customers").glob("*"))):
        meter = row["meter_id"]
        true = faults.transformer_id[meter] if meter in faults.index else row["transformer_id"]
        assert supplied.get(bus[meter], "") == true


def test_civil_times_say_which_of_two_hours_they_mean() -> None:
    change = int(datetime.fromisoformat("2016-10-30T03:00:00+02:00").timestamp())
    texts, fold = files.civil(
        pd.Series([change - 900, change, change + 2700, change + 3600]).to_numpy(), "Europe/Berlin"
    )
    assert texts.to_pylist() == [f"2016-10-30T{it}:00" for it in ("02:45", "02:00", "02:45", "03:00")]
    assert fold.to_pylist() == [0, 1, 1, 0]


def test_csv_with_commas_and_quotes_comes_back(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"a": ['x,"y"', "z", None], "b": [1.5, None, 0.1]})
    files.write(tmp_path / "a.csv", table)
    back = [{"a": row["a"] or None, "b": float(row["b"]) if row["b"] else None} for row in rows(tmp_path / "a.csv")]
    assert back == table.to_pylist()
