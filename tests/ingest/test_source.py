from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest
import simbench

from lib.grid.network import Network
from lib.ingest.demo import Region, injections
from lib.ingest.source import SIMBENCH_START, Source, from_net, from_simbench, simbench_net
from tests.lakes import net_of, source_of

CODE = "1-LV-rural1--0-sw"


@pytest.fixture(scope="module")
def simbench_source() -> Source:
    return from_simbench(CODE)


@pytest.fixture(scope="module")
def absolute() -> tuple[Any, dict[tuple[str, str], Any]]:
    """The net and SimBench's own absolute values, (interval, element) in MW and Mvar."""
    net = simbench_net(CODE)
    return net, simbench.get_absolute_values(net, profiles_instead_of_study_cases=True)


@pytest.mark.parametrize(
    ("day", "slots"),
    [
        (date(2016, 1, 1), 96),
        (date(2016, 3, 27), 92),
        (date(2016, 7, 1), 96),
        (date(2016, 10, 30), 100),
        (date(2016, 12, 31), 96),
    ],
)
def test_without_noise_injections_are_simbenchs_own(
    simbench_source: Source, absolute: Any, day: date, slots: int
) -> None:
    net, values = absolute
    part = np.flatnonzero(net.profiles["load"]["time"].str.startswith(f"{day:%d.%m.%Y}"))
    assert len(part) == slots
    row_of = Network.from_bytes(simbench_source.network.tobytes()).row_of
    expected = np.zeros((2, simbench_source.n_bus, slots))
    for index, bus in net.load.bus.items():
        expected[0, row_of[bus]] -= 1e3 * values["load", "p_mw"][index].to_numpy()[part]
        expected[1, row_of[bus]] -= 1e3 * values["load", "q_mvar"][index].to_numpy()[part]
    for index, bus in net.sgen.bus.items():
        expected[0, row_of[bus]] += 1e3 * values["sgen", "p_mw"][index].to_numpy()[part]
        expected[1, row_of[bus]] += 1e3 * net.sgen.q_mvar[index]
    p_kw, q_kvar = injections(simbench_source, Region("a", CODE, "Europe/Berlin", "", 1, 0.0), day)
    assert p_kw.dtype == np.float32
    np.testing.assert_allclose(p_kw, expected[0], rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(q_kvar, expected[1], rtol=2e-6, atol=1e-6)


def test_noise_is_independent_between_meters_and_slots_and_has_the_deviation_asked_for(simbench_source: Source) -> None:
    day = date(2016, 6, 1)
    calm, noisy = (injections(simbench_source, Region("a", CODE, "UTC", "", 1, noise), day)[0] for noise in (0.0, 0.05))
    one_meter = np.flatnonzero(np.bincount(simbench_source.meter_row, minlength=simbench_source.n_bus) == 1)
    ratio = noisy[one_meter] / np.where(calm[one_meter] == 0, np.nan, calm[one_meter])
    ratio = ratio[np.isfinite(ratio).all(axis=1)]
    assert ratio.size > 500
    assert abs(np.std(ratio) / 0.05 - 1) < 0.1
    assert abs(np.mean(ratio) - 1) < 0.01
    between_meters = np.corrcoef(ratio)[np.triu_indices(len(ratio), 1)]
    assert np.abs(between_meters).max() < 0.5
    assert abs(np.corrcoef(ratio[:, :-1].ravel(), ratio[:, 1:].ravel())[0, 1]) < 0.15


def test_noise_never_turns_a_load_into_a_generator() -> None:
    source = source_of(net_of("north"), days=2)
    p_kw, _ = injections(source, Region("north", "case33bw", "Europe/Berlin", "", 1, 0.9), date(2016, 1, 1))
    assert p_kw.max() <= 0
    assert (p_kw[1:] == 0).any()  # the noise was large enough to meet the bound


def test_a_day_beyond_the_profiles_is_refused(simbench_source: Source) -> None:
    with pytest.raises(ValueError, match=r"region a: .* do not cover 2016-01-01 in Asia/Shanghai; .* 2015-12-31 23:00"):
        injections(simbench_source, Region("a", CODE, "Asia/Shanghai", "", 1, 0.1), date(2016, 1, 1))
    with pytest.raises(ValueError, match="do not cover 2017-01-01"):
        injections(simbench_source, Region("a", CODE, "Europe/Berlin", "", 1, 0.1), date(2017, 1, 1))


def test_a_source_comes_back_from_its_file(tmp_path: Any) -> None:
    source = source_of(net_of("south"), days=2)
    source.save(tmp_path / "new" / "source.npz")
    again = Source.load(tmp_path / "new" / "source.npz")
    for name, value in vars(source).items():
        np.testing.assert_array_equal(getattr(again, name), value, err_msg=name)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["source.npz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda net: net.load.__setitem__("profile", [None] + ["home"] * (len(net.load) - 1)),
            r"load without profile \[0\]",
        ),
        (lambda net: net.load.__setitem__("const_z_p_percent", 20.0), r"load that depends on voltage \[0, 1"),
        (lambda net: __import__("pandapower").create_storage(net, 3, 0.1, 1.0), r"storage \[0\]"),
    ],
)
def test_what_no_profile_drives_is_named(change: Any, message: str) -> None:
    net = net_of("south")
    change(net)
    with pytest.raises(ValueError, match=message):
        from_net(net, {"load": {}, "sgen": {}}, SIMBENCH_START)


def test_loading_simbench_prints_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    simbench_net(CODE)
    out, err = capfd.readouterr()
    assert (out, err, caplog.text) == ("", "", "")
