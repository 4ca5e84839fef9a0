"""Formulas: operators given by Spark SQL expressions alone, aggregated to partials that merge like any operator's.

`lib.algorithm.formula_check.analyse` makes one from a spec, checked by Spark's own analyser before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lib.algorithm.operator import Figure
from lib.algorithm.spec import FormulaSpec, ResultColumn

__all__ = ["Formula", "FormulaSpec", "ResultColumn"]


@dataclass(frozen=True)
class Formula:
    """What planning needs of a formula, named as in `lib.algorithm.operator.Operator`.

    The partial of a cell has one row per distinct `by`. `columns` are those of `table` that the expressions and `by`
    read, sorted, without region and date, which every cell has. `figures` are what a partial keeps: an aggregate under
    its own name, a mean as `<name>__sum` and `<name>__count`. `place` says where it is written, for messages. A formula
    that was not `checked` (no Spark at hand) has neither columns nor figures and cannot be calculated.
    """

    spec: FormulaSpec
    place: str = ""
    columns: tuple[str, ...] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    engine: str = ""
    checked: bool = False

    name: ClassVar[str] = "formula"
    version: ClassVar[int] = 1
    group: ClassVar[tuple[str, ...]] = ()
    key: ClassVar[tuple[str, ...]] = ()
    side: ClassVar[None] = None
    outputs: ClassVar[tuple[str, ...]] = ()

    @property
    def table(self) -> str:
        return self.spec.table

    @property
    def by(self) -> tuple[str, ...]:
        return tuple(self.spec.by)

    @property
    def parameters(self) -> dict[str, Any]:
        """What a partial depends on besides rows and sources; `finish` is applied to merged figures."""
        return self.spec.model_dump(mode="json", exclude={"finish"}) | {"engine": self.engine}
