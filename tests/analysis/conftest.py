from tests.analysis.worlds import world

__all__ = ["world"]
