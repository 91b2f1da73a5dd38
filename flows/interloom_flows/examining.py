"""What a machine has and lacks for Interloom. Imports nothing heavy: it only asks what is there."""

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from interloom.bootstrap import open_store
from interloom.config.settings import Settings
from interloom.core.errors import InterloomError

Verdict = Literal["good", "could be better", "needed"]

_PACKAGES: tuple[tuple[str, str, Verdict, str], ...] = (
    ("torch", "torch", "needed", "every model"),
    ("deepspeed", "deepspeed", "needed", "the engine that trains"),
    ("prefect", "prefect", "needed", "runs the stages in order"),
    ("great-expectations", "great_expectations", "needed", "judges data before it is published"),
    ("espeakng-loader", "espeakng_loader", "needed", "speaks the starter world"),
    ("dvc", "dvc", "could be better", "pull exported data sets without Interloom"),
    ("streamlit", "streamlit", "could be better", "the dashboard"),
)
_MIN_MEMORY_BYTES = 6_000_000_000
_MIN_DISK_BYTES = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    verdict: Verdict
    meaning: str


def examine(settings: Settings) -> tuple[Finding, ...]:
    """Look at processor, memory, disk, accelerator, packages and the installation's folders."""
    return (
        *_machine(settings),
        _accelerator(settings),
        *(_package(*package) for package in _PACKAGES),
        _store(settings),
        _prefect(settings),
    )


def _machine(settings: Settings) -> Iterator[Finding]:
    cores = os.cpu_count() or 1
    enough = cores >= 2
    yield Finding(
        "processor cores",
        f"{cores}, of which stages use {settings.num_threads}",
        "good" if enough else "could be better",
        "two train side by side" if enough else "the starter takes about twice as long",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding(
        "memory",
        f"{memory / 1e9:.0f} GB",
        "good" if memory >= _MIN_MEMORY_BYTES else "could be better",
        "the starter needs 6 GB",
    )
    free = shutil.disk_usage(_existing(settings.home.absolute())).free
    yield Finding(
        "disk",
        f"{free / 1e9:.0f} GB free at {settings.home}",
        "good" if free >= _MIN_DISK_BYTES else "could be better",
        "the starter leaves well under 5 GB",
    )


def _accelerator(settings: Settings) -> Finding:
    if settings.device_kind == "cuda":
        return Finding("GPU", "there", "good", "training uses it")
    return Finding(
        "GPU", "none", "could be better", "starter and desk need none; larger recipes do"
    )


def _package(distribution: str, module: str, verdict: Verdict, purpose: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(distribution, "not installed", verdict, purpose)
    return Finding(distribution, importlib.metadata.version(distribution), "good", purpose)


def _store(settings: Settings) -> Finding:
    purpose = "artifacts are kept there"
    try:
        if "://" in settings.store_url:
            open_store(settings).prepare()
        else:
            with tempfile.TemporaryFile(dir=_existing(Path(settings.store_url))):
                pass
    except OSError as error:
        found = f"{settings.store_url}: {error.strerror}"
        return Finding("store", found, "needed", purpose)
    except InterloomError as error:
        return Finding("store", str(error), "needed", purpose)
    return Finding("store", settings.store_url, "good", purpose)


def _prefect(settings: Settings) -> Finding:
    if settings.prefect_api_url:
        return Finding("Prefect server", settings.prefect_api_url, "good", "shows runs")
    return Finding("Prefect server", "none named", "good", "one is started for each run")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())
