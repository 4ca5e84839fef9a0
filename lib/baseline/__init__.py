"""What gridsink is measured against: the same power flow after collecting every row to the driver."""
