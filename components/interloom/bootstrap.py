"""Settings to services. Nothing else builds an adapter."""

from dataclasses import dataclass

from interloom.adapters.folder_store import FolderStore
from interloom.adapters.local_launcher import LocalLauncher
from interloom.config.settings import Settings
from interloom.ports.catalog import Catalog
from interloom.ports.engine import EngineBuilder
from interloom.ports.gate import QualityGate
from interloom.ports.launcher import Launcher
from interloom.stages.contract import StageContract


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that a flow, a page or a command needs of the world."""

    settings: Settings
    store: FolderStore
    catalog: Catalog
    launcher: Launcher
    contract: StageContract

    def close(self) -> None:
        """Give the catalog's connections back."""
        self.catalog.close()


def connect(settings: Settings) -> Services:
    """Open store and catalog, creating what is not there yet.

    Raises:
        ConfigError: The store or the database cannot be opened; or a PostgreSQL schema is behind.
        TransientError: The database does not answer.
    """
    from interloom.adapters.sql_catalog import SqlCatalog  # heavy, and no stage needs it

    store = open_store(settings)
    catalog = SqlCatalog.connect(settings.catalog_url)
    launcher = LocalLauncher(store_root=settings.store_folder, device=settings.device_kind)
    contract = StageContract(
        store=store,
        catalog=catalog,
        launcher=launcher,
        work_folder=settings.work_folder,
        numeric_class=f"{settings.image_digest}|{settings.device_kind}",
        lease_ttl_s=settings.lease_ttl_s,
        is_paranoid=settings.paranoid,
    )
    return Services(settings, store, catalog, launcher, contract)


def open_store(settings: Settings) -> FolderStore:
    """The artifact store alone: all that a stage's process needs."""
    return FolderStore(settings.store_folder)


def engine_builder() -> EngineBuilder:
    """DeepSpeed; imported only by a stage that trains."""
    from interloom.adapters.deepspeed_engine import build_deepspeed_engine

    return build_deepspeed_engine


def quality_gate() -> QualityGate:
    """Great Expectations; imported only by a stage that judges."""
    from interloom.adapters.gx_gate import GreatExpectationsGate

    return GreatExpectationsGate()
