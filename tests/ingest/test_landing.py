"""The demo landing against its truth, against sums by pandas and against the power flow's own line losses."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.grid.powerflow import solve
from lib.ingest.landing.build import write_day, write_master
from lib.ingest.landing.region import DemoRegion
from tests.ingest.landing_net import AREAS, FIRST, LOADS, region, source
from tests.ingest.landing_reader import Landing

DAYS = 3
STRETCHED = {"days": DAYS, "missing_share": 0.05}


def write_all(it: DemoRegion, root: Path) -> Landing:
    folder, truth = root / "landing" / it.recipe.region, root / "truth" / it.recipe.region
    write_master(it, folder, truth)
    for day in it.days:
        write_day(it, day, folder, truth)
    return Landing(folder, truth)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Landing:
    return write_all(region(**STRETCHED), tmp_path_factory.mktemp("written"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Landing:
    """The same region and seed with no fault that shows in the losses and nothing missing."""
    return write_all(region(days=1, faulty_areas=0.0, missing_share=0.0), tmp_path_factory.mktemp("clean"))


def test_same_seed_same_bytes_whatever_is_written_alone(written: Landing, tmp_path: Path) -> None:
    again = region(**STRETCHED)
    write_day(again, again.days[1], tmp_path / "landing", tmp_path / "truth")
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        root = written.folder if path.is_relative_to(tmp_path / "landing") else written.truth
        first = tmp_path / ("landing" if root is written.folder else "truth")
        assert path.read_bytes() == (root / path.relative_to(first)).read_bytes(), path


def test_another_seed_or_region_or_day_gives_other_values() -> None:
    days = [FIRST, FIRST + timedelta(days=1)]
    noises = [
        it.recipe.stream("noise", day).standard_normal(4).tobytes()
        for it, day in (
            (region(), days[0]),
            (region(seed=2), days[0]),
            (region(region="south"), days[0]),
            (region(), days[1]),
        )
    ]
    assert len(set(noises)) == 4


def test_gate_is_customers_plus_the_losses_of_the_areas_lines(clean: Landing) -> None:
    it = region(days=1, faulty_areas=0.0, missing_share=0.0)
    day = it.solve(FIRST)
    network = source().solver_network
    p_kw = np.zeros((network.n_bus, 96))
    q_kvar = np.zeros((network.n_bus, 96))
    for meter, energy, q in zip(it.customers.meter, day.energy_wh, day.q_kvar, strict=True):
        sign = 1 if source().meter_generates[meter] else -1
        p_kw[source().meter_row[meter]] += sign * energy / 250
        q_kvar[source().meter_row[meter]] -= q
    branches = solve(network, p_kw, q_kvar, scale=1e-3).branches()
    low = network.vn_kv < 1
    of_line = (network.branch_kind == 0) & low[network.branch_from]
    # Lines are made area by area, ten in each.
    lost = branches.p_loss_mw[of_line].sum(axis=1).reshape(AREAS, LOADS).sum(axis=1) * 0.25 * 1e3
    losses = clean.area_loss().set_index("transformer_id").sort_index()
    lit = ~losses.index.isin(clean.outage_areas())
    np.testing.assert_allclose(losses.technical_loss_kwh[lit], lost[lit], rtol=1e-5)
    np.testing.assert_allclose(losses.loss_kwh, losses.technical_loss_kwh, atol=0.02)
    np.testing.assert_array_equal(losses.loss_kwh, losses.observed_loss_kwh)


def test_losses_from_the_files_are_those_of_the_truth(written: Landing) -> None:
    """Gate less registers, as records and files say, is the observed loss; where no fault lies, the true loss too."""
    truth = written.area_loss().set_index(["date", "transformer_id"]).sort_index()
    observed = written.loss_by_registers()
    swapped = written.faults().query("kind == 'meter_swap'").transformer_id
    keep = ~truth.index.get_level_values(1).isin(swapped)
    np.testing.assert_allclose(observed.loc[truth.index][keep], truth.observed_loss_kwh[keep], atol=0.02)
    faults = written.faults()
    faulty = faults[faults.kind.isin(["stopped_meter", "wrong_ct_ratio", "wrong_transformer", "bypass_theft"])]
    touched = set(faulty.transformer_id) | set(faulty.recorded_transformer_id.dropna())
    assert set(faulty.kind) == {"stopped_meter", "wrong_ct_ratio", "wrong_transformer", "bypass_theft"}
    for (day, transformer), row in truth.iterrows():
        begun = [f for f in faulty.itertuples() if transformer in (f.transformer_id, f.recorded_transformer_id)]
        begun = [f for f in begun if f.from_ts <= pd.Timestamp(day, tz="Europe/Berlin")]
        ratio = row.observed_loss_kwh / (row.gate_forward_kwh + row.export_kwh)
        if not begun:
            assert row.observed_loss_kwh == pytest.approx(row.loss_kwh, abs=1e-6), (day, transformer)
            assert 0 < ratio < 0.02
        else:
            assert transformer in touched
            assert ratio > 0.1 or ratio < -0.05, (day, transformer, begun)


def test_missing_values_are_exactly_those_of_the_truth(written: Landing) -> None:
    expected = written.slots_of_faults("missing")
    late = written.slots_of_faults("late")
    found = written.absent_slots(first_delivery=True)
    assert found == expected | late
    assert written.absent_slots(first_delivery=False) == expected
    share = len(expected) / (AREAS * LOADS * 96 * DAYS)
    assert 0.03 < share < 0.07


def test_spikes_and_negatives_are_exactly_those_of_the_truth(written: Landing) -> None:
    energy = written.intervals("import_kwh", first_delivery=True)
    for kind, found in (("spike", energy[energy.value > 500]), ("negative", energy[energy.value < 0])):
        assert set(zip(found.meter_id, found.ts_s, strict=True)) == written.slots_of_faults(kind), kind


def test_frozen_voltages_are_exactly_those_of_the_truth(written: Landing) -> None:
    volts = written.intervals("u_v", first_delivery=True)
    volts["day"] = (volts.ts_s - 900 + 3600) // 86400
    still = volts.groupby(["meter_id", "phase", "day"]).value.nunique()
    frozen = {meter for meter, *_ in still[still == 1].index}
    assert frozen == set(written.faults().query("kind == 'frozen'").meter_id)


def test_corrections_and_repetitions_are_exactly_those_of_the_truth(written: Landing) -> None:
    first = written.intervals("import_kwh", first_delivery=True).set_index(["meter_id", "ts_s"]).value
    last = written.intervals("import_kwh", first_delivery=False).set_index(["meter_id", "ts_s"]).value
    changed = first.index[(first != last.loc[first.index]) & first.notna()]
    assert set(changed) == written.slots_of_faults("corrected")
    repeated = written.repeated_curves()
    expected = written.faults().query("kind == 'duplicate'")
    assert repeated == {(f.meter_id, f.from_ts.tz_convert("Europe/Berlin").date()) for f in expected.itertuples()}


def test_meters_stand_still_exactly_where_the_truth_says(written: Landing) -> None:
    energy = written.intervals("import_kwh", first_delivery=False)
    stopped = written.faults().query("kind == 'stopped_meter'").set_index("meter_id").from_ts
    dark = written.meters_of(written.outage_areas())
    for meter, values in energy[~energy.meter_id.isin(dark)].groupby("meter_id"):
        after = values.ts_s > stopped[meter].timestamp() if meter in stopped.index else np.zeros(len(values), bool)
        assert (values.value[after] == 0).all()
        assert not (values.value[~after] == 0).all()


def test_registers_run_over_and_start_anew_exactly_where_the_truth_says(written: Landing) -> None:
    registers = written.registers("import_total_kwh")
    falls = registers.groupby("meter_id").value.apply(lambda v: bool((v.diff() < 0).any()))
    faults = written.faults()
    assert set(falls[falls].index) == set(faults[faults.kind.isin(["rollover", "meter_swap"])].meter_id)
    devices = pd.concat(written.tables("meters", "devices"))
    swapped = devices[devices.device_id.str.endswith("-1")]
    assert set(swapped.meter_id) == set(faults.query("kind == 'meter_swap'").meter_id)
    for row in swapped.itertuples():  # old device's last reading plus the new one's is the energy of the days
        old = devices[(devices.meter_id == row.meter_id) & (devices.valid_to == row.valid_from)].iloc[0]
        shown = registers[registers.meter_id == row.meter_id].value.to_numpy()
        energy = written.intervals("import_kwh", first_delivery=False).query("meter_id == @row.meter_id").value.sum()
        assert old.end_import_total_kwh - shown[0] + shown[-1] == pytest.approx(energy, abs=0.002)


def test_outages_gasps_and_alarms_are_those_of_the_truth(written: Landing) -> None:
    outages = written.faults().query("kind == 'outage'")
    assert len(outages) == DAYS
    events = pd.concat(written.tables("meters", "events"))
    events["ts"] = pd.to_datetime(events.ts, utc=True)
    reported = pd.concat(written.tables("outages", "outages")).set_index("transformer_id")
    energy = written.intervals("import_kwh", first_delivery=False)
    volts = written.intervals("u_v", first_delivery=False)
    gasping: set[str] = set()
    for row in outages.itertuples():
        meters = written.meters_of([row.transformer_id])
        gasps = events[(events.event == "last_gasp") & events.meter_id.isin(meters)]
        assert (gasps.ts - row.from_ts).between(pd.Timedelta(0), pd.Timedelta("10s")).all()
        assert 0.4 * len(meters) < len(gasps) <= len(meters)
        gasping |= set(gasps.meter_id)
        begin, end = row.from_ts.timestamp(), row.to_ts.timestamp()
        for values in (energy, volts):
            own = values[values.meter_id.isin(meters)]
            assert (own.value[(own.ts_s > begin) & (own.ts_s <= end)] == 0).all()
        of = volts[volts.meter_id.isin(meters)]
        assert (of.value[(of.ts_s <= begin) | (of.ts_s > end)] > 200).all()
        gap = abs(pd.Timestamp(reported.start_ts[row.transformer_id]).tz_convert("UTC") - row.from_ts)
        assert gap <= pd.Timedelta("10min")
    assert set(events[events.event == "last_gasp"].meter_id) == gasping
    areas = set(written.customers().transformer_id.dropna()) - set(outages.transformer_id)
    lit = volts[volts.meter_id.isin(written.meters_of(areas))]
    assert (lit.value.dropna() > 200).all()
    alarms = pd.concat(written.tables("alarms", "alarms"))
    times = pd.to_datetime(alarms.ts, utc=True)
    storm = written.faults().query("kind == 'alarm_storm'").iloc[0]
    quarter = times.dt.floor("15min").value_counts()
    assert quarter.idxmax() == storm.from_ts
    assert (alarms[times.between(storm.from_ts, storm.to_ts)].severity == "major").sum() == storm["size"]
    assert (quarter.drop(storm.from_ts) < 10).all()


@pytest.mark.parametrize(("day", "slots"), [(date(2016, 3, 27), 92), (date(2016, 10, 30), 100), (date(2016, 6, 1), 96)])
def test_a_day_has_the_slots_of_its_civil_day(day: date, slots: int, tmp_path: Path) -> None:
    it = write_all(region(first=day, days=1, missing_share=0.0), tmp_path)
    curves = pd.concat(it.tables("meters", "curves"))
    assert set(curves["values"].map(len)) == {slots}
    gates = it.gate_readings()
    one = gates[(gates.register == "u_v") & (gates.phase == "A")].groupby("meter_id")
    assert set(one.size()) == {slots}
    instants = one.ts_s.apply(lambda s: tuple(np.diff(np.sort(s))))
    assert set(instants) == {(900,) * (slots - 1)}


def test_zipf_areas_are_skewed_and_others_are_not() -> None:
    customers = {s: np.bincount(region(zipf_s=s).customers.area + 1)[1:] for s in (-1.0, 0.0, 1.5)}
    assert set(customers[-1.0]) == {LOADS + 1}
    assert customers[0.0].max() - customers[0.0].min() <= 1
    ranked = np.sort(customers[1.5] - 1)[::-1]
    assert ranked.max() > 4 * np.median(ranked)
    # 160 customers by rank^-1.5, none below its area's ten loads
    wanted = np.arange(1, AREAS + 1) ** -1.5
    wanted = np.maximum(2 * AREAS * LOADS * wanted / wanted.sum(), LOADS)
    np.testing.assert_allclose(ranked, wanted, atol=1)
    limited = np.bincount(region(zipf_s=1.5, customers_per_load=3).customers.area + 1)[1:]
    assert limited.max() == 3 * LOADS + 1


def test_splitting_keeps_each_loads_energy() -> None:
    full_hours = (source().hours[:, 96] - source().hours[:, 0])[source().meter_profile]
    expected_wh = np.abs(source().meter_p_kw) * 1e3 * full_hours
    for it in (region(), region(zipf_s=1.0)):
        by_load = np.bincount(it.customers.meter, weights=it.solve(FIRST).energy_wh.sum(axis=1))
        calm = ~np.isin(source().meter_area, [area for area, _, _ in it.plan.outages])
        np.testing.assert_allclose(by_load[calm], expected_wh[calm], rtol=1e-6)
