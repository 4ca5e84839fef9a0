"""Network models that landing files name, to rows of `network`; and at which bus each metering point hangs."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import groupby, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from lib.calculation.frames import read
from lib.ingest.records import date_check, validity
from lib.ingest.silver import MEND, Check, Counts, absent, number, problem, store, versions
from lib.tables import Lake

if TYPE_CHECKING:
    from lib.grid.network import Network

FORMATS = ("pandapower", "cim")
FOLDER = "assets/networks"
_CONVERTED = (
    "source_file string, line bigint, network_version int, valid_to date, n_bus int, n_row int, n_branch int,"
    " digest string, content binary, reason string, remedy string"
)


@dataclass(frozen=True)
class Model:
    """One row of `networks` that holds: where it stands, the file that it names, which version of the network it is."""

    source_file: str
    line: int
    path: str
    format: str
    version: int
    valid_to: date | None


def networks(spark: SparkSession, lake: Lake, root: Path, region: str, run_id: str) -> Counts:
    """Table `network` of the region from all rows of `networks`; a model that cannot be used goes into quarantine.

    Versions of a network are numbered by valid_from; one holds until the next begins, or until its own valid_to.
    """
    strange = f.concat(f.lit("format is neither pandapower nor cim: "), f.col("format"))
    elsewhere = f.concat(f.lit(f"file is no name in {FOLDER}: "), f.col("file"))
    checks = [
        *absent("network_id", "valid_from", "format", "file"),
        date_check("valid_from"),
        date_check("valid_to"),
        Check(~f.col("format").isin(*FORMATS), strange),
        Check(f.col("file").rlike(r"[/\\]|^\."), elsewhere),
        Check(f.col("valid_to").try_cast("date") <= f.col("valid_from").try_cast("date"), "valid_to is not later"),
    ]
    rows = read(spark, lake, "networks", region).withColumns({"problem": problem(checks), **validity()})
    rows = versions(rows, ("network_id", "valid_from"), ("valid_to", "format", "file", "gate_meter_id")).persist()
    try:
        found = rows.where("fate = 'out'").select(
            "network_id", "valid_from", "valid_to", "format", "file", "source_file", "line"
        )
        models = _models([row.asDict() for row in found.collect()], root / region / FOLDER)
        converted = _converted(spark, models)
        whole = rows.drop("valid_to", "digest").join(converted, ["source_file", "line"], "left")
        bad = f.col("reason").isNotNull()
        whole = whole.withColumns(
            {
                "fate": f.when(bad, "quarantined").otherwise(f.col("fate")),
                "problem": f.when(bad, f.struct("reason", "remedy")).otherwise(f.col("problem")),
            }
        )
        return store(spark, lake, whole, feed="networks", table="network", region=region, run_id=run_id)
    finally:
        rows.unpersist()


def connections(spark: SparkSession, lake: Lake, region: str, run_id: str) -> Counts:
    """Table `meter_bus` of the region: at which bus of which model each metering point hangs."""
    checks = [
        *absent("meter_id", "network_id", "bus", "valid_from"),
        number("bus", "bigint"),
        date_check("valid_from"),
        date_check("valid_to"),
    ]
    rows = read(spark, lake, "connections", region)
    rows = rows.withColumns({"problem": problem(checks), **validity(), "bus": f.col("bus").try_cast("bigint")})
    rows = versions(rows, ("meter_id", "valid_from"), ("network_id", "bus", "valid_to"))
    return store(spark, lake, rows, feed="connections", table="meter_bus", region=region, run_id=run_id)


def read_model(path: str, format: str) -> Network:
    """The network of a model file. Raises ValueError, saying why, for one that cannot be used."""
    from lib.grid.network import Network

    if not Path(path).is_file():
        raise ValueError("there is no such file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)  # pandapower reports what it finds odd; what matters is whether it converts
        try:
            net = _cim(path) if format == "cim" else _pandapower(path)
            return Network.from_pandapower(net)
        except ValueError:
            raise
        except Exception as e:  # a damaged file fails anywhere in pandapower, with any exception
            raise ValueError(f"{type(e).__name__}: {e}") from e
        finally:
            logging.disable(before)


def _pandapower(path: str) -> Any:
    import pandapower

    net = pandapower.from_json(path, convert=False)
    if not isinstance(net, pandapower.pandapowerNet):
        raise ValueError("it holds no pandapower net")
    return pandapower.convert_format(net)


def _cim(path: str) -> Any:
    from pandapower.converter.cim.cim2pp.from_cim import from_cim

    return from_cim(file_list=[path], ignore_errors=False, create_tap_controller=False)


def _models(rows: list[dict[str, Any]], folder: Path) -> list[Model]:
    found = []
    for _, same in groupby(sorted(rows, key=itemgetter("network_id", "valid_from")), key=itemgetter("network_id")):
        periods = list(same)
        for version, (row, after) in enumerate(zip_longest(periods, periods[1:]), 1):
            ends = [row["valid_to"], after and after["valid_from"]]
            end = min((it for it in ends if it is not None), default=None)
            path = str(folder / row["file"])
            found.append(Model(row["source_file"], row["line"], path, row["format"], version, end))
    return found


def _converted(spark: SparkSession, models: list[Model]) -> DataFrame:
    """Each model's row of `network`, or why there is none; made in workers, which alone need pandapower."""

    def convert(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for k in batch.column("id").to_pylist():
                yield pa.RecordBatch.from_pylist([_row(models[k])], schema=schema)

    from pyspark.sql.pandas.types import to_arrow_schema

    schema = to_arrow_schema(spark.createDataFrame([], _CONVERTED).schema)
    return spark.range(0, len(models), 1, max(1, len(models))).mapInArrow(convert, _CONVERTED)


def _row(model: Model) -> dict[str, Any]:
    row: dict[str, Any] = {
        "source_file": model.source_file, "line": model.line, "network_version": model.version,
        "valid_to": model.valid_to,
    }  # fmt: skip
    name = Path(model.path).name
    try:
        network = read_model(model.path, model.format)
    except ValueError as e:
        reason = f"the model {name} cannot be used: {' '.join(str(e).split())}"[:500]
        return row | {"reason": reason, "remedy": f"put the {model.format} file into {FOLDER} whole, or {MEND}"}
    content = network.to_bytes()
    return row | {
        "n_bus": network.n_bus, "n_row": network.n_row, "n_branch": network.n_branch,
        "digest": hashlib.sha256(content).hexdigest(), "content": content,
    }  # fmt: skip
