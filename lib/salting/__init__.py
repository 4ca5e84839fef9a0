"""Salting: work of heavy keys spread over reducers, by measured load.

`profile` measures a DataFrame's keys, `plan` decides which of them to split and where each part goes, and
`salted_aggregate`, `salted_group_map` and `salted_join` calculate by that plan. `skew_report` says how evenly the
tasks of a run were loaded.
"""

from lib.salting.aggregate import salted_aggregate
from lib.salting.group_map import salted_group_map
from lib.salting.join import salted_join
from lib.salting.plan import SaltPlan, plan
from lib.salting.profile import HeavyKey, Profile, profile
from lib.salting.report import SkewReport, observe, skew_report

__all__ = [
    "HeavyKey",
    "Profile",
    "SaltPlan",
    "SkewReport",
    "observe",
    "plan",
    "profile",
    "salted_aggregate",
    "salted_group_map",
    "salted_join",
    "skew_report",
]
