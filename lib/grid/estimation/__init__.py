"""State estimation: voltages from measurements, many snapshots at once; observability and bad data."""

from lib.grid.estimation.wls import EstimateStatus, Estimator, StateEstimate, estimate

__all__ = ["EstimateStatus", "Estimator", "StateEstimate", "estimate"]
