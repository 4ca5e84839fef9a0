"""The fusion layer: runs pipelines and merges the partials of cells, regions and operators into results."""
