"""The three work lists on a small landing with injected faults: against the truth, and done once only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from deltalake import DeltaTable

from benchmarks.line_loss import accuracy, by_fault, cases, silenced
from jobs.mining import line_loss, transformer_load, voltage_quality
from lib.errors import GridsinkError
from lib.ingest.landing.build import write_day, write_master
from lib.job import JobContext, JobResult
from lib.launch import catalog
from tests.ingest.landing_net import region
from tests.ingest.landings import REGION, run_load, settings_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# transformers of 250 kVA are hardly loaded here: limits at which something shows
SETTINGS = (
    "mining.transformer_load.heavy_percent=14", "mining.transformer_load.overload_percent=16",
    "mining.voltage_quality.three_phase_percent=1.2", "mining.voltage_quality.low_percent=1.2",
)  # fmt: skip


@dataclass
class Lists:
    root: Path
    spark: SparkSession

    def run(self, job: ModuleType, *arguments: str) -> tuple[JobResult, JobContext]:
        context = JobContext(
            job.__name__, settings_of(self.root, *SETTINGS), catalog.parse(job, arguments), "test", self.root / "run"
        )
        context.__dict__["spark"] = self.spark
        return job.run(context), context

    def table(self, name: str) -> pd.DataFrame:
        return DeltaTable(f"{self.root}/lake/gold/{name}").to_pyarrow_table().to_pandas()

    def version(self, name: str) -> int:
        return DeltaTable(f"{self.root}/lake/gold/{name}").version()


@pytest.fixture(scope="module")
def lists(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lists:
    root = tmp_path_factory.mktemp("lists")
    demo = region(days=2)
    write_master(demo, root / "landing" / REGION, root / "truth" / REGION)
    for day in demo.days:
        write_day(demo, day, root / "landing" / REGION, root / "truth" / REGION)
    run_load(spark, root, sources=("meters", "customers", "assets"))
    return Lists(root, spark)


def test_line_loss_agrees_with_the_truth(lists: Lists) -> None:
    result, context = lists.run(line_loss, "--from", "2016-01-01", "--to", "2016-01-02")
    assert context.counts["rows_quarantined"] == 0
    rows, faults = cases(settings_of(lists.root), (REGION,))
    (of_region,) = accuracy(rows)
    assert of_region["cases"] == 16
    assert of_region["clean and judged"] == of_region["clean"] > 0
    assert of_region["largest error"] <= 0.05
    assert (of_region["false high"], of_region["high though not assessable"]) == (0, 0)
    kinds = {row["kind"]: row for row in by_fault(rows, faults)}
    assert kinds["all"]["right"] == kinds["all"]["cases"] > kinds["all"]["visible"] / 2 > 0

    # some meters send nothing: none of these areas may be called high for it
    of_silence = silenced(settings_of(lists.root), rows, 0.2)
    assert of_silence["not assessable"] > 0
    assert of_silence["false high"] == 0 < of_silence["false high without the rule"]

    table = lists.table("pipeline_line_loss")
    area = table[table["transformer_id"].notna()]
    assert set(area["limit_percent"]) == {7.0}
    assert (area["coverage_percent"] == 100).all()
    assert (area[area["class"].isin(["high", "negative"])]["at_stake"] > 0).all()
    top = next(rows for title, rows in result.tables.items() if "to look at" in title)
    stakes = [row["at_stake"] for row in top if row["at_stake"] is not None]
    assert stakes == sorted(stakes, reverse=True)
    assert {"class", "reason", "action", "stake_kwh"} < set(top[0])


def test_load_episodes_are_those_of_the_curves(lists: Lists) -> None:
    _, context = lists.run(transformer_load)
    assert context.counts["rows_quarantined"] == 0
    days, episodes = lists.table("pipeline_transformer_load"), lists.table("load_episode")
    meters = DeltaTable(f"{lists.root}/lake/silver/meter_day").to_pyarrow_table().to_pandas()
    gates = meters[meters["is_gate"] & meters["transformer_id"].notna() & meters["p_kw"].notna()]
    for transformer, some in gates.groupby("transformer_id"):
        kva = [
            (p**2 + q**2) ** 0.5
            for _, row in some.sort_values("date").iterrows()
            for p, q in zip(row["p_kw"], row["q_kvar"], strict=True)
        ]
        mine = episodes[episodes["transformer_id"] == transformer]
        expected = _runs([value > 0.14 * 250 for value in kva], 3), _runs([value > 0.16 * 250 for value in kva], 1)
        for kind, lengths in zip(("heavy", "overload"), expected, strict=True):
            assert list(mine[mine["kind"] == kind].sort_values("start_ts")["points"]) == lengths
    assert len(episodes) > 0
    # the day before, of which nothing came but the registers at its end, is no day of the list
    assert set(days["date"]) == {date(2016, 1, 1), date(2016, 1, 2)}


def test_the_non_technical_loss_of_a_network_is_what_faults_take(lists: Lists) -> None:
    """Power flow of the tiles that ingest made of the meters; measured losses from the landing."""
    result, context = lists.run(line_loss)
    assert context.counts["rows_quarantined"] == 0
    assert len(result.tables["networks"]) == 2
    truth, _ = cases(settings_of(lists.root), (REGION,))
    true_ct = truth[truth["factor"] == 1]  # a wrong ratio at a transformer's gate changes nothing at the network's
    taken = (true_ct["observed_loss_kwh"] - true_ct["loss_kwh"]).groupby(true_ct["date"]).sum()
    found = lists.table("pipeline_network_line_loss").set_index("date")
    assert (found["coverage_percent"] == 100).all()
    assert (found["measured_loss_kwh"] == found["in_kwh"] - found["out_kwh"]).all()
    assert found["non_technical_kwh"].to_dict() == pytest.approx(taken.to_dict(), rel=0.02, abs=3)
    assert taken.max() > 30
    assert "above the technical loss" in set(found["class"])


def _runs(above: list[bool], least: int) -> list[int]:
    """Lengths of runs, the plainest way."""
    text = "".join("x" if it else " " for it in above)
    return [len(run) for run in text.split() if len(run) >= least]


def test_voltage_quality_adds_up(lists: Lists) -> None:
    lists.run(voltage_quality)
    areas, days, episodes = (lists.table(it) for it in ("pipeline_voltage_quality", "voltage_day", "voltage_episode"))
    customers = days[~days["is_gate"]].groupby(["date", "transformer_id"])
    sums = customers[["slots_valid", "slots_low", "slots_high"]].sum()
    passed = 100 * (1 - (sums["slots_low"] + sums["slots_high"]) / sums["slots_valid"])
    found = areas[areas["transformer_id"].notna()].set_index(["date", "transformer_id"])["pass_percent"].dropna()
    pd.testing.assert_series_equal(found.sort_index(), passed.sort_index(), check_names=False, rtol=1e-12)
    assert episodes["points"].sum() == (days["slots_low"] + days["slots_high"]).sum() > 0


def test_running_again_writes_nothing(lists: Lists) -> None:
    tables = (
        "pipeline_line_loss", "pipeline_transformer_load", "pipeline_voltage_quality", "load_run", "load_episode",
        "voltage_run", "voltage_day", "voltage_episode",
    )  # fmt: skip
    before = [lists.version(name) for name in tables]
    for job in (line_loss, transformer_load, voltage_quality):
        _, context = lists.run(job, "--from", "2016-01-02", "--region", REGION)
        assert "rows_in" not in context.counts
    assert [lists.version(name) for name in tables] == before


def test_a_lake_without_meters_says_what_to_run(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(GridsinkError, match="no table meter_day") as e:
        Lists(tmp_path, spark).run(line_loss)
    assert "ingest.load" in str(e.value)
