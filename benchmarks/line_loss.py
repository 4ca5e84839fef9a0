"""The list of line losses on the demo landing against the truth: errors on clean areas, classes of injected faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from benchmarks import common
from lib.algorithm.operator import Day, inputs
from lib.algorithm.operators.line_loss import LineLoss
from lib.ingest.landing.faults import AREA_KINDS
from lib.settings import Settings, load
from lib.tables.tiles import day_slots

NOTES = (
    "The demo landing (ingest.landing) through ingest.load and mining.line_loss, each as a command; the truth is what "
    "docs/landing.md describes. A case is an area and a day.",
    "Error: percentage points between the list's loss and the truth's observed one, where no fault touches the area.",
    "Right: the class is the one that the truth's observed loss has with the limits in the row. A fault of a kind is a "
    "case of the area that it befalls, from its first day on; of wrong_transformer also the area that is recorded. "
    "Visible: that class is high or negative.",
    "False high: the list says high, and the truth's observed loss does not.",
    "Meters that send nothing: the operator on the same rows, a random share of customers' meters without any value; "
    "beside it the same judged without the rule of coverage.",
)


@click.command()
@click.option("--folder", required=True, type=click.Path(file_okay=False), help="For landing, truth and lake.")
@click.option("--days", default=2, show_default=True)
@click.option("--region", "regions", multiple=True, default=("rural", "urban"), show_default=True)
def main(folder: str, days: int, regions: tuple[str, ...]) -> None:
    settings = [f"lake.path={folder}/lake", f"landing.path={folder}/landing", "max_quarantine=1000000"]
    chosen = [part for region in regions for part in ("--region", region)]
    seconds = {}
    needed = [part for source in ("meters", "customers", "assets") for part in ("--source", source)]
    commands = (("ingest.landing", "--days", str(days)), ("ingest.load", *needed), ("mining.line_loss",))
    for name, *arguments in commands:
        common.say(name)
        report, _ = common.job(name, *arguments, *chosen, settings=settings)
        seconds[name] = report.seconds
    rows, faults = cases(load(settings, environment={}), regions)
    tables = {"areas": accuracy(rows), "faults": by_fault(rows, faults)}
    tables["meters that send nothing"] = [
        silenced(load(settings, environment={}), rows, share) for share in (0.01, 0.05, 0.2)
    ]
    common.write("line_loss", {"days": days, "regions": list(regions)}, tables, NOTES, {"seconds": seconds})


def cases(settings: Settings, regions: tuple[str, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The list's rows beside the truth's of the same area and day, and the faults that show in a line loss."""
    table = DeltaTable(f"{settings.lake.path}/gold/pipeline_line_loss").to_pyarrow_table().to_pandas()
    truth = Path(settings.landing.path).parent / "truth"
    losses = pd.concat(pd.read_parquet(truth / region / "area_loss") for region in regions)
    faults = pd.concat(pd.read_parquet(truth / region / "faults" / "plan.parquet") for region in regions)
    faults = faults[faults["kind"].isin(AREA_KINDS)]
    keys = ["region", "date", "transformer_id"]
    rows = losses.merge(table, how="left", on=keys, suffixes=("", "_listed"), validate="one_to_one")
    rows["begin"] = [
        pd.Timestamp(day, tz=settings.regions[region].time_zone)
        for region, day in zip(rows["region"], rows["date"], strict=True)
    ]
    rows["factor"] = 1.0
    for it in faults[faults["kind"] == "wrong_ct_ratio"].itertuples():
        rows.loc[(rows["transformer_id"] == it.transformer_id) & (rows["begin"] >= it.from_ts), "factor"] = it.size
    rows["touched"] = False
    for it in faults.itertuples():
        rows.loc[touched(rows, it), "touched"] = True
    in_kwh = rows["gate_forward_kwh"] * rows["factor"] + rows["export_kwh"]
    with np.errstate(invalid="ignore", divide="ignore"):
        rows["true_percent"] = 100 * rows["observed_loss_kwh"] / in_kwh
    high, low = rows["true_percent"] > rows["limit_percent"], rows["true_percent"] < rows["negative_percent"]
    rows["true_class"] = np.select([high, low], ["high", "negative"], "normal")
    return rows, faults


def silenced(settings: Settings, rows: pd.DataFrame, share: float) -> dict[str, Any]:
    """What becomes of the cases where a share of the customers' meters sends nothing."""
    result: dict[str, Any] = {"share": share}
    for title, rules in (("", {}), (" without the rule", {"min_coverage_percent": 0.0})):
        found = rows[["region", "date", "transformer_id", "true_class"]].merge(_silent(settings, rows, share, **rules))
        judged, high = found["class"] != "not assessable", found["class"] == "high"
        result |= {f"not assessable{title}": int((~judged).sum())}
        result |= {f"false high{title}": int((high & (found["true_class"] != "high")).sum())}
    return result


def _silent(settings: Settings, cases: pd.DataFrame, share: float, **rules: float) -> pd.DataFrame:
    operator, result = LineLoss.from_settings(settings, **rules), []
    columns = ["region", "date", *inputs(operator)["meter_day"]]
    meters = DeltaTable(f"{settings.lake.path}/silver/meter_day").to_pyarrow_table(columns=columns)
    sides = DeltaTable(f"{settings.lake.path}/silver/transformer").to_pyarrow_table().to_pylist()
    side = {(it["region"], it["transformer_id"]): it for it in sides}
    customers = sorted(set(meters.filter(pc.invert(meters["is_gate"]))["meter_id"].to_pylist()))
    lost = np.random.default_rng(1).permutation(customers)[: round(share * len(customers))].tolist()
    silent = pc.is_in(meters["meter_id"], pa.array(lost, pa.string()))
    for i, name in enumerate(meters.column_names):
        if name.endswith(("_wh", "_quality")):
            values = [
                None if it else value for it, value in zip(silent.to_pylist(), meters[name].to_pylist(), strict=True)
            ]
            meters = meters.set_column(i, name, pa.array(values, meters.schema.field(name).type))
    frame = meters.select(["region", "date", "transformer_id"]).to_pandas()
    frame = frame[frame["date"].isin(set(cases["date"])) & frame["transformer_id"].notna()]
    for (region, day, transformer), at in frame.groupby(["region", "date", "transformer_id"]).groups.items():
        of_day = Day(region, day, day_slots(day, settings.regions[region].time_zone) * 900)
        state = operator.prepare(side[region, transformer])
        partial, _ = operator.map(meters.take(pa.array(at)), state, of_day)
        assert partial is not None
        figures = operator.finish(partial, state, of_day)[1]
        kind = "high" if figures["days_high"] else "negative" if figures["days_negative"] else "normal"
        kind = kind if figures["days_assessed"] else "not assessable"
        result.append({"region": region, "date": day, "transformer_id": transformer, "class": kind})
    return pd.DataFrame(result)


def touched(rows: pd.DataFrame, fault: Any) -> pd.Series:
    """Cases that a fault shows in."""
    areas = [fault.transformer_id, fault.recorded_transformer_id]
    return rows["transformer_id"].isin([it for it in areas if it]) & (rows["begin"] >= fault.from_ts)


def accuracy(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """By region: how many cases are judged, the error on clean ones, how many are called high and are not."""
    result = []
    for region, some in rows.groupby("region"):
        judged, clean = some[some["loss_percent"].notna()], some[~some["touched"]]
        error = (clean["loss_percent"] - clean["true_percent"]).abs()
        result.append(
            {
                "region": region, "cases": len(some), "judged": len(judged), "clean": len(clean),
                "clean and judged": int(error.notna().sum()), "largest error": float(error.max()),
                "mean error": float(error.mean()),
                "right class, of judged": float((judged["class"] == judged["true_class"]).mean()),
                "false high": int(((some["class"] == "high") & (some["true_class"] != "high")).sum()),
                "high though not assessable": int(((some["class"] == "high") & some["loss_percent"].isna()).sum()),
            }
        )  # fmt: skip
    return result


def by_fault(rows: pd.DataFrame, faults: pd.DataFrame) -> list[dict[str, Any]]:
    """By kind: cases, those judged, in the right class, visible, and visible ones in the right class."""
    result = []
    for kind in AREA_KINDS:
        hit = np.zeros(len(rows), bool)
        for it in faults[faults["kind"] == kind].itertuples():
            hit |= touched(rows, it).to_numpy()
        result.append({"kind": kind} | _counted(rows[hit]))
    return [*result, {"kind": "all"} | _counted(rows[rows["touched"]])]


def _counted(some: pd.DataFrame) -> dict[str, Any]:
    right, visible = some["class"] == some["true_class"], some["true_class"] != "normal"
    return {
        "cases": len(some), "judged": int(some["loss_percent"].notna().sum()), "right": int(right.sum()),
        "right share": float(right.mean()), "visible": int(visible.sum()),
        "visible and right": int((visible & right).sum()),
    }  # fmt: skip


if __name__ == "__main__":
    main()
