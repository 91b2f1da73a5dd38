"""Open the installation for one command."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from interloom.config.settings import load_settings

if TYPE_CHECKING:
    from interloom.bootstrap import Services


@contextmanager
def opened() -> "Iterator[Services]":
    """Store, catalog and launcher, as the environment says; closed afterwards."""
    from interloom.bootstrap import connect

    services = connect(load_settings())
    try:
        yield services
    finally:
        services.close()
