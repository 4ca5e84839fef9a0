from tests.lakes import tiny_lake

__all__ = ["tiny_lake"]
