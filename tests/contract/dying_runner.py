"""A runner that kills itself: ``python dying_runner.py HOME WHERE COUNT``.

WHERE is ``statement`` (the COUNT-th statement that the catalog gets), ``shard`` (after the COUNT-th
object that the store keeps) or ``never``. It prints how many of either it counted. The store is
a folder in HOME, unless INTERLOOM_STORE_ROOT names one in S3.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import event

from interloom.adapters.folder_store import FolderStore
from interloom.adapters.sql_catalog import SqlCatalog
from interloom.bootstrap import open_store
from interloom.config.settings import load_settings
from interloom.core.artifacts import Shard
from interloom.ports.store import ArtifactStore
from interloom.stages.contract import StageCall, StageContract, execute_stage
from interloom.testing.launcher import InlineLauncher
from interloom.testing.probe import REGISTRY, ProbeRequest


class Fate:
    """Counts down to the end."""

    def __init__(self, where: str, count: int) -> None:
        self.where = where
        self.count = count
        self.seen = 0

    def pass_by(self, where: str) -> None:
        if where == self.where:
            self.seen += 1
            if self.seen == self.count:
                os.kill(os.getpid(), signal.SIGKILL)


class DyingStore(FolderStore):
    """A folder store that may not outlive an object."""

    fate = Fate("never", 0)

    def keep_object(self, source: Path, shard: Shard) -> None:
        super().keep_object(source, shard)
        self.fate.pass_by("shard")

    def keep_bytes(self, data: bytes, target: Path, staging: Path) -> None:
        super().keep_bytes(data, target, staging)
        self.fate.pass_by("shard")


def contract_in(home: Path, store: ArtifactStore, catalog: SqlCatalog) -> StageContract:
    return StageContract(
        store=store,
        catalog=catalog,
        launcher=InlineLauncher(store, registry=REGISTRY),
        work_folder=home / "work",
        lease_ttl_s=600,
        registry=REGISTRY,
    )


def the_call() -> StageCall:
    return StageCall(stage="probe", request=ProbeRequest(text="hello", num_steps=3), recipe="tiny")


def main(home: Path, where: str, count: int) -> None:
    fate = Fate(where, count)
    settings = load_settings()
    store: ArtifactStore
    if settings.store_root is None:
        store = DyingStore(home / "store")
        store.fate = fate
    else:
        store = open_store(settings)
    catalog = SqlCatalog.connect(f"sqlite:///{home / 'catalog.sqlite'}")

    def before(*_arguments: Any) -> None:
        fate.pass_by("statement")

    event.listen(catalog._database.engine, "before_cursor_execute", before)
    event.listen(catalog._database.engine, "commit", before)
    execute_stage(contract_in(home, store, catalog), the_call())
    sys.stdout.write(f"{fate.seen}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
