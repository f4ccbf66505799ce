"""One package a framework; each speaks its framework's own interface. None is imported on its own."""

__all__: list[str] = []
