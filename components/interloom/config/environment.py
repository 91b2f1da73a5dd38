"""The process environment, for those who start processes or frameworks that read it."""

import os
from collections.abc import Mapping


def environment() -> dict[str, str]:
    """A copy of this process's environment."""
    return dict(os.environ)


def export(values: Mapping[str, str]) -> None:
    """Set variables that are not set yet, for frameworks that read them when imported."""
    for name, value in values.items():
        os.environ.setdefault(name, value)
