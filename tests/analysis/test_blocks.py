"""Rounds and blocks: nothing lost, the newest first, memory and cores respected."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import chain, pairwise

from hypothesis import given
from hypothesis import strategies as st

from lib.analysis.blocks import DAYS_PER_ROUND, blocks, bytes_of, rounds
from lib.calculation.located import Cell, File

DAYS = st.integers(0, 800).map(lambda n: date(2016, 1, 1) + timedelta(n))
CELLS = st.sets(st.tuples(st.sampled_from(["comm", "rural", "urban"]), DAYS), max_size=600)


@given(CELLS, st.permutations(["urban", "comm"]))
def test_rounds_hold_each_cell_once_newest_day_first(cells: set[tuple[str, date]], priority: list[str]) -> None:
    found = rounds(cells, priority)
    every = list(chain.from_iterable(found))
    assert sorted(every) == sorted(cells)
    rank = {region: n for n, region in enumerate([*priority, "rural"])}
    assert every == sorted(every, key=lambda cell: (-cell[1].toordinal(), rank[cell[0]]))
    days = [len({day for _, day in some}) for some in found]
    for a, b in pairwise(found):
        assert min(day for _, day in a) > max(day for _, day in b)  # a day is never split
    assert max(days, default=0) <= DAYS_PER_ROUND
    assert not days or days[0] <= max(1, sum(days) / 50)


@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=60), st.integers(10**6, 10**10), st.integers(1, 8),
    st.sampled_from(["snapshot_tile", "bus_day"]),
)  # fmt: skip
def test_blocks_keep_order_budget_and_balance(sizes: list[int], budget: int, cores: int, table: str) -> None:
    cells = [Cell("here", date.fromordinal(730_000 + n), 86_400, (File("f", s),), ()) for n, s in enumerate(sizes)]
    found = blocks(cells, table, budget, cores)
    assert list(chain.from_iterable(found)) == cells
    loads = [sum(bytes_of(cell, table) for cell in block) for block in found]
    total = sum(loads)
    for block, load in zip(found, loads, strict=True):
        assert len(block) == 1 or load <= 1.01 * min(budget, total / (4 * cores) + 1)
    assert len(found) >= min(len(cells), 2 * cores) or max(sizes) * len(cells) > 2 * sum(sizes)
