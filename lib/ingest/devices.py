"""Which device hung at each meter in each slot: ratios, registers, use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lib.ingest import quality
from lib.ingest.span import Span

_NUMBERS = (
    "ct_ratio", "pt_ratio", "register_digits", "start_import_total_kwh", "start_export_total_kwh",
    "end_import_total_kwh", "end_export_total_kwh",
)  # fmt: skip
_DEFAULTS = {"ct_ratio": 1.0, "pt_ratio": 1.0, "register_digits": 6.0}

DEVICES = pa.schema(
    [
        ("meter_id", pa.string()),
        ("device_id", pa.string()),
        ("from_us", pa.int64()),  # UTC, microseconds since 1970
        ("to_us", pa.int64()),  # null: open
        *((name, pa.float64()) for name in _NUMBERS),
        ("use", pa.string()),
    ]
)


@dataclass(eq=False)
class Devices:
    """Devices of meters: `at` (meter, slot) numbers them, the last number standing for a device that nobody named.

    An interval in which a device is exchanged counts as the new one's.
    """

    at: NDArray[np.int64]
    device_id: list[str]
    numbers: dict[str, NDArray[np.float64]]
    use: list[str | None]

    @staticmethod
    def of(devices: pa.Table, meters: list[str], span: Span) -> Devices:
        """The devices (DEVICES) of these meters; a meter without a row has ratio 1."""
        number = {meter: k for k, meter in enumerate(meters)}
        rows = devices.sort_by([("meter_id", "ascending"), ("from_us", "ascending")])
        at = np.full((len(meters), span.width), rows.num_rows)
        use: list[str | None] = [None] * len(meters)
        ends = span.ends_us
        froms, tos = rows["from_us"].to_pylist(), rows["to_us"].to_pylist()
        names, uses = rows["meter_id"].to_pylist(), rows["use"].to_pylist()
        for k, (meter, begin, end) in enumerate(zip(names, froms, tos, strict=True)):
            if meter in number:
                last = span.width if end is None else np.searchsorted(ends, end, side="right")
                at[number[meter], np.searchsorted(ends, begin, side="right") : last] = k
                use[number[meter]] = uses[k]
        numbers = {}
        for name in _NUMBERS:
            column = rows[name].to_numpy().astype(np.float64)
            if name in _DEFAULTS:
                column = np.where(np.isnan(column), _DEFAULTS[name], column)
            numbers[name] = np.append(column, _DEFAULTS.get(name, np.nan))
        return Devices(at, [*rows["device_id"].to_pylist(), ""], numbers, use)

    @property
    def ct(self) -> NDArray[np.float64]:
        """(meter, slot) ratio of the current transformers."""
        return self.numbers["ct_ratio"][self.at]

    @property
    def pt(self) -> NDArray[np.float64]:
        """(meter, slot) ratio of the voltage transformers."""
        return self.numbers["pt_ratio"][self.at]

    @property
    def is_customer(self) -> NDArray[np.bool_]:
        """(meter,) whether the meter's use is known, and is neither generation nor gate."""
        return np.array([it == "customer" for it in self.use], bool)

    def energy(
        self, register: str, meter: NDArray, before: NDArray, after: NDArray, values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """kWh at the primary side between pairs of readings in slots `before` and `after`; NaN where it is unknown.

        A device that stays counts on, whatever its ratio; of one that is exchanged, what it counted to its end, and
        what the new one counted from its start.
        """
        old, new = self.at[meter, before], self.at[meter, after]
        first, last = values[meter, before], values[meter, after]
        modulus = 10.0 ** self.numbers["register_digits"]
        ratio = self.numbers["ct_ratio"] * self.numbers["pt_ratio"]
        end, start = self.numbers[f"end_{register}"][old], self.numbers[f"start_{register}"][new]
        ids = np.array(self.device_id, dtype=object)
        stays = (old == new) | ((ids[old] == ids[new]) & np.isnan(end) & np.isnan(start))
        counted = quality.advance(first, last, modulus[new])[0] * ratio[new]
        begin = np.where(np.isnan(start), 0.0, start)
        to_end = quality.advance(first, end, modulus[old])[0] * ratio[old]
        from_start = quality.advance(begin, last, modulus[new])[0] * ratio[new]
        return np.where(stays, counted, to_end + from_start)

    def follows(self, meter: NDArray, before: NDArray, after: NDArray, register: str) -> NDArray[np.bool_]:
        """Whether `energy` between these slots is exact although other slots lie between: no ratio changed meanwhile
        unless the register was read then, and no device came and went."""
        old, new = self.at[meter, before], self.at[meter, after]
        changes = np.cumsum(np.diff(self.at, axis=1, prepend=self.at[:, :1]) != 0, axis=1)
        ratio = self.numbers["ct_ratio"] * self.numbers["pt_ratio"]
        read = np.isfinite(self.numbers[f"end_{register}"][old])
        once = (changes[meter, after] - changes[meter, before]) <= 1
        return once & (read | (ratio[old] == ratio[new]))
