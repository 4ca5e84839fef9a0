"""The process that Spark's Python workers are forks of: libraries imported, kernels loaded.

Spark starts it, as `spark.python.daemon.module`, for a session's first Python task. Each worker would need seconds.
"""

from __future__ import annotations

import gc

import numpy as np
from pyspark.daemon import manager

import lib.calculation.worker  # noqa: F401  for the workers
from lib.grid import warm

if __name__ == "__main__":
    warm.compile_power_flow(np.float32)  # of what tiles hold
    gc.collect()
    gc.freeze()  # what is there now stays: workers need not look through it, nor copy its pages
    manager()
