"""Jobs that solve the power flow, where the data lies or, to compare, on the driver."""
