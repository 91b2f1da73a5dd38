"""Open the installation for one command."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from interloom.config.settings import load_settings

if TYPE_CHECKING:
    from interloom.bootstrap import Services


@contextmanager
def opened(*, paranoid: bool = False) -> "Iterator[Services]":
    """Store, catalog and launcher, as the environment says; closed afterwards.

    ``paranoid`` hashes every byte of what is reused, whatever the environment says.
    """
    from interloom.bootstrap import connect

    settings = load_settings()
    services = connect(settings.model_copy(update={"paranoid": True}) if paranoid else settings)
    try:
        yield services
    finally:
        services.close()
