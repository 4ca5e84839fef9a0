"""The physics: networks, power flow, branch results. Imports neither Spark nor any other part of gridsink."""

from lib.grid.network import Network

__all__ = ["Network"]
