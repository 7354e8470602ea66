"""For all tests: what takes longest begins first, so that no core waits for it at the end."""

import pytest

_LONGEST = ("test_bucket.py", "test_sweep.py", "test_preprocessing_nodes.py", "test_tune_nodes.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts them; within a file the order stays."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)
