"""The calculation layer: runs an operator where the data lies.

Its modules in the order of a run: `sink` goes through a selection of days and commits each region's results; `located`
plans from a table's log which files make up each (region, date) cell; `local` hands cells to Spark's tasks; `worker` is
what a task does: read its own files (`rows`), run the operator, write its own result files, which `parts` commits.
`scan` is the way through Spark's own Delta scan where files alone do not tell the truth; `jvm` holds private calls.
"""
