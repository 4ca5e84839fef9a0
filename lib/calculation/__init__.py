"""The calculation layer: runs an operator where the data lies. See `docs` and the modules, in the order of a run:

`located` plans from a table's snapshot which files make up each (region, date) cell; `local` hands cells to Spark's
tasks; `worker` is what a task does: read its own files, run the operator, write its own result files; `parts` commits
those files. `scan` is the way through Spark's own Delta scan where files alone do not tell the truth.
"""
