"""Settings to services. Nothing else builds an adapter."""

from dataclasses import dataclass
from pathlib import Path

from interloom.adapters.local_launcher import LocalLauncher
from interloom.adapters.stores import open_store_at
from interloom.config.settings import Settings
from interloom.core.errors import ConfigError
from interloom.ports.catalog import Catalog
from interloom.ports.engine import EngineBuilder
from interloom.ports.events import EventSink
from interloom.ports.gate import QualityGate
from interloom.ports.launcher import Launcher
from interloom.ports.store import ArtifactStore
from interloom.ports.transcriber import Transcriber
from interloom.stages.contract import StageContract
from interloom.stages.pricing import Prices


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that a flow, a page or a command needs of the world."""

    settings: Settings
    store: ArtifactStore
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
    catalog = SqlCatalog.connect(settings.catalog_url, tells_events=settings.tells_lineage)
    launcher = _launcher(settings)
    contract = StageContract(
        store=store,
        catalog=catalog,
        launcher=launcher,
        work_folder=settings.work_folder,
        log_folder=settings.log_folder,
        numeric_class=f"{settings.image_digest}|{settings.device_kind}",
        lease_ttl_s=settings.lease_ttl_s,
        is_paranoid=settings.paranoid,
        prices=Prices(
            node_kind=settings.node_kind,
            gpu_hour=settings.price_per_gpu_hour,
            cpu_hour=settings.price_per_cpu_hour,
            currency=settings.currency,
        ),
    )
    return Services(settings, store, catalog, launcher, contract)


def _launcher(settings: Settings) -> Launcher:
    """Processes of this machine, or jobs of a cluster.

    Raises:
        ConfigError: The cluster's profile or its address is not there.
        MissingError: The cluster's client is not installed.
    """
    if settings.launcher == "local":
        return LocalLauncher(
            store_root=settings.store_url, device=settings.device_kind, grace_s=settings.grace_s
        )
    from interloom.adapters.cluster.opening import open_cluster_launcher  # needs its client

    return open_cluster_launcher(settings.launcher, settings.cluster_profile)


def open_store(settings: Settings, url: str | None = None) -> ArtifactStore:
    """The artifact store alone, all that a stage's process needs; or another one at ``url``.

    Raises:
        ConfigError: Its URL or its settings are wrong.
    """
    cache = settings.store_cache_folder
    store = open_store_at(url or settings.store_url, settings.s3, cache_folder=cache)
    if url is not None or not settings.store_mirrors:
        return store
    from interloom.adapters.mirrored_store import MirroredStore

    mirrors = [
        open_store_at(mirror, settings.s3, cache_folder=cache) for mirror in settings.store_mirrors
    ]
    return MirroredStore(store, mirrors)


def open_event_sink(settings: Settings) -> EventSink | None:
    """Where events of runs are told to; None if nobody wants them.

    Raises:
        ConfigError: Two places are named.
        MissingError: OpenLineage's client is not installed.
    """
    if not settings.tells_lineage:
        return None
    from interloom.adapters.openlineage_sink import open_sink

    key = settings.openlineage_api_key
    return open_sink(
        url=settings.openlineage_url,
        api_key=key.get_secret_value() if key is not None else None,
        file=settings.openlineage_file,
    )


def engine_builder() -> EngineBuilder:
    """DeepSpeed; imported only by a stage that trains."""
    from interloom.adapters.deepspeed_engine import build_deepspeed_engine

    return build_deepspeed_engine


def quality_gate() -> QualityGate:
    """Great Expectations; imported only by a stage that judges."""
    from interloom.adapters.gx_gate import GreatExpectationsGate

    return GreatExpectationsGate()


def open_transcriber(asr: str | None) -> Transcriber | None:
    """The speech recogniser ``moonshine``, or the Whisper of a folder; none if none is asked for.

    Raises:
        ConfigError: It is neither.
        DataError: The folder's files are not those of a Whisper.
        MissingError: Its package is not installed, or the folder holds no Whisper.
    """
    if asr is None:
        return None
    if asr == "moonshine":
        from interloom.adapters.moonshine import MoonshineTranscriber

        return MoonshineTranscriber()
    if not Path(asr).is_dir():
        raise ConfigError(f"--asr: 'moonshine' or the folder of a Whisper is expected, got {asr!r}")
    from interloom.adapters.whisper import WhisperTranscriber

    return WhisperTranscriber(Path(asr))
