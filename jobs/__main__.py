"""The command behind ./spark-submit.sh."""

from __future__ import annotations

from jobs.cli import main

main()
