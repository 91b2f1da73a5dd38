"""From a store's URL to the store: a folder, or ``s3://bucket/prefix``."""

from pathlib import Path
from urllib.parse import urlsplit

from interloom.adapters.folder_store import FolderStore
from interloom.config.s3 import S3Settings
from interloom.core.errors import ConfigError
from interloom.ports.store import ArtifactStore

S3_SCHEME = "s3://"


def open_store_at(url: str, s3: S3Settings, *, cache_folder: Path) -> ArtifactStore:
    """Open a store; nothing is sent or written yet.

    Args:
        url: The path of a folder, or ``s3://bucket/prefix``.
        s3: How S3 is reached.
        cache_folder: For what is read from S3.

    Raises:
        ConfigError: The URL is of another kind, or S3's settings are not complete.
    """
    if url.startswith(S3_SCHEME):
        return _open_s3(url, s3, cache_folder)
    if "://" in url:
        raise ConfigError(f"a store is a folder or s3://bucket/prefix, got {url!r}")
    return FolderStore(Path(url))


def _open_s3(url: str, s3: S3Settings, cache_folder: Path) -> ArtifactStore:
    from interloom.adapters.s3_bucket import S3Bucket
    from interloom.adapters.s3_connection import S3Options
    from interloom.adapters.s3_store import S3Store

    parts = urlsplit(url)
    if not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError("a store in S3 is named s3://bucket/prefix, without keys or options")
    if s3.access_key is None or s3.secret_key is None:
        raise ConfigError(
            f"the store {url} needs credentials: set INTERLOOM_S3_ACCESS_KEY and "
            "INTERLOOM_S3_SECRET_KEY"
        )
    options = S3Options(
        endpoint=s3.endpoint,
        bucket=parts.netloc,
        access_key=s3.access_key,
        secret_key=s3.secret_key,
        session_token=s3.session_token,
        region=s3.region,
        ca_file=s3.ca_file,
        timeout_s=s3.timeout_s,
        patience_s=s3.patience_s,
        part_bytes=s3.part_bytes,
    )
    return S3Store(
        S3Bucket(options),
        parts.path.strip("/"),
        FolderStore(s3.cache_root or cache_folder),
        cache_bytes=s3.cache_bytes,
        needs_conditional_writes=s3.conditional_writes,
    )
