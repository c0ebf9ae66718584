"""The peak of memory that Python and NumPy allocate in a block."""

import contextlib
import tracemalloc
from collections.abc import Iterator


@contextlib.contextmanager
def peak_below(most: int) -> Iterator[None]:
    """Fail where the block allocates ``most`` bytes or more at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
