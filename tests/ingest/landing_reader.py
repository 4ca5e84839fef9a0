"""Reads a written landing with pandas alone, as docs/sources.md describes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

ZONE = "Europe/Berlin"
Slots = set[tuple[str, int]]


@dataclass(frozen=True)
class Landing:
    """`folder` holds the sources of one region, `truth` its truth."""

    folder: Path
    truth: Path

    def paths(self, source: str, feed: str) -> list[Path]:
        """Files of a feed, in the order in which they were received."""
        return sorted((self.folder / source).glob(f"{feed}-*"), key=lambda path: path.name.split("-")[1][:16])

    def tables(self, source: str, feed: str) -> list[pd.DataFrame]:
        return [read(path) for path in self.paths(source, feed)]

    def area_loss(self) -> pd.DataFrame:
        return pd.read_parquet(self.truth / "area_loss")

    def faults(self) -> pd.DataFrame:
        return pd.read_parquet(self.truth / "faults")

    def outage_areas(self) -> list[str]:
        return self.faults().query("kind == 'outage'").transformer_id.tolist()

    def customers(self) -> pd.DataFrame:
        return pd.concat(self.tables("customers", "customers"))

    def meters_of(self, transformers: Iterable[str]) -> set[str]:
        """Meters that the records have under these transformers."""
        customers = self.customers()
        return set(customers.meter_id[customers.transformer_id.isin(list(transformers))])

    def slots_of_faults(self, kind: str) -> Slots:
        """(meter, end of the interval in s) of every slot that the truth names."""
        rows = self.faults().query("kind == @kind")
        return {
            (row.meter_id, ts)
            for row in rows.itertuples()
            for ts in range(int(row.from_ts.timestamp()) + 900, int(row.to_ts.timestamp()) + 1, 900)
        }

    def intervals(self, register: str, first_delivery: bool) -> pd.DataFrame:
        """meter_id, phase, ts_s, value of customers' meters; NaN not read. Later files win, or count not at all."""
        parts = []
        for path in self.paths("meters", "curves"):
            if first_delivery and path.stem.endswith(("late", "corrected")):
                continue
            curves = read(path).query("register == @register")
            start = pd.to_datetime(curves.date).dt.tz_localize(ZONE).map(pd.Timestamp.timestamp).astype("int64")
            for meter, phase, begin, values in zip(curves.meter_id, curves.phase, start, curves["values"], strict=True):
                ts = begin + 900 * np.arange(1, len(values) + 1)
                parts.append(
                    pd.DataFrame(
                        {"meter_id": meter, "phase": phase, "ts_s": ts, "value": np.array(values, dtype=float)}
                    )
                )
        for path in self.paths("meters", "readings"):
            if path.suffix == ".parquet":
                rows = read(path).query("register == @register")
                ts = rows.ts.map(pd.Timestamp.timestamp).astype("int64")
                parts.append(rows[["meter_id", "phase", "value"]].assign(ts_s=ts))
        whole = pd.concat(parts)
        return whole.drop_duplicates(["meter_id", "phase", "ts_s"], keep="last").reset_index(drop=True)

    def absent_slots(self, first_delivery: bool) -> Slots:
        """Slots of customers that import without a value."""
        energy = self.intervals("import_kwh", first_delivery)
        there = energy[energy.value.notna()]
        customers = self.customers()
        meters = customers.meter_id[customers.tariff != "generation"]
        slots = self.gate_readings().ts_s.unique()
        return {(m, int(ts)) for m in meters for ts in slots} - set(zip(there.meter_id, there.ts_s, strict=True))

    def repeated_curves(self) -> set[tuple[str, object]]:
        """(meter, date) whose every curve comes again with equal values in another file of the same delivery."""
        found = set()
        for path in self.paths("meters", "curves"):
            if "-again" in path.name:
                main = read(path.with_name(path.name.replace("-again", "")))
                for row in read(path).itertuples():
                    same = main[(main.meter_id == row.meter_id) & (main.register == row.register)]
                    same = same[same.phase == row.phase]
                    np.testing.assert_array_equal(same["values"].iloc[0], row.values)
                    found.add((row.meter_id, pd.Timestamp(row.date).date()))
        return found

    def registers(self, register: str) -> pd.DataFrame:
        """Cumulative values in order of time."""
        tables = [read(path) for path in self.paths("meters", "readings") if "registers" in path.name]
        rows = pd.concat(tables).query("register == @register")
        return rows.assign(ts=pd.to_datetime(rows.ts, utc=True)).sort_values(["meter_id", "ts"])

    def gate_readings(self) -> pd.DataFrame:
        """Gate meters' rows with ts_s, from civil time and fold."""
        rows = pd.concat([read(path) for path in self.paths("meters", "readings") if "gates" in path.name])
        daylight = (rows.fold == 0).to_numpy()
        ts = pd.to_datetime(rows.ts).dt.tz_localize(ZONE, ambiguous=daylight)
        return rows.assign(ts_s=(ts - pd.Timestamp(0, tz="UTC")) // pd.Timedelta("1s"))

    def loss_by_registers(self) -> pd.Series:
        """kWh lost by (date, transformer), as records and files have it: gates by interval, customers by register."""
        devices = pd.concat(self.tables("meters", "devices")).drop_duplicates(["meter_id", "valid_from"], keep="last")
        transformers = pd.concat(self.tables("assets", "transformers"))
        area = transformers.set_index("gate_meter_id").transformer_id
        gates = self.gate_readings()
        gates = gates[gates.meter_id.isin(area.index) & gates.register.isin(["import_kwh", "export_kwh"])]
        gates = gates.merge(devices[["meter_id", "valid_from", "valid_to", "ct_ratio"]], on="meter_id")
        begin = gates.ts_s - 900
        since = pd.to_datetime(gates.valid_from, utc=True).map(pd.Timestamp.timestamp)
        until = pd.to_datetime(gates.valid_to, utc=True).map(lambda t: np.inf if t is pd.NaT else t.timestamp())
        gates = gates[(since <= begin) & (begin < until)]
        sign = np.where(gates.register == "import_kwh", 1, -1)
        gates = gates.assign(
            kwh=sign * gates.value * gates.ct_ratio,
            date=pd.to_datetime(gates.ts_s - 900, unit="s", utc=True).dt.tz_convert(ZONE).dt.date,
            transformer_id=gates.meter_id.map(area),
        )
        loss = gates.groupby(["date", "transformer_id"]).kwh.sum()
        customers = self.customers().dropna(subset="transformer_id").set_index("meter_id").transformer_id
        for register, factor in (("import_total_kwh", -1), ("export_total_kwh", 1)):
            rows = self.registers(register)
            rows = rows[rows.meter_id.isin(customers.index)]
            rows = rows.assign(
                kwh=factor * (rows.groupby("meter_id").value.diff() % 1e6),
                date=(rows.ts - pd.Timedelta("1s")).dt.tz_convert(ZONE).dt.date,
                transformer_id=rows.meter_id.map(customers),
            ).dropna(subset="kwh")
            loss = loss.add(rows.groupby(["date", "transformer_id"]).kwh.sum(), fill_value=0)
        return loss


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".jsonl":
        return pd.read_json(path, lines=True, convert_dates=False, precise_float=True)
    return pd.read_csv(path)
