"""A catalog that goes away."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interloom.adapters.sql_catalog import SqlCatalog


@contextmanager
def temporary() -> Iterator[SqlCatalog]:
    """An empty catalog in a SQLite file that is removed on leaving."""
    with tempfile.TemporaryDirectory(prefix="interloom-") as folder:
        catalog = SqlCatalog.connect(f"sqlite:///{Path(folder) / 'catalog.sqlite'}")
        try:
            yield catalog
        finally:
            catalog.close()
