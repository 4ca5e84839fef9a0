"""From a command line to a running job: set-up of the checkout, the job list, the spark-submit line."""
