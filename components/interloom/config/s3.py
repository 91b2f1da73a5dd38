"""How an S3 store is reached: read once from the environment, as ``INTERLOOM_S3_<FIELD>``."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

MIN_PART_BYTES = 5 << 20  # S3's own limit


class S3Settings(BaseSettings):
    """Server and credentials.

    Attributes:
        endpoint: ``https://host[:port]``, or ``http://`` where no TLS is wanted.
        region: As the server calls it.
        access_key: Half of the credentials.
        secret_key: The other half.
        session_token: For credentials that expire.
        ca_file: Certificates to trust, for a private authority.
        timeout_s: How long a single answer may be awaited.
        patience_s: How long one operation is tried again without headway.
        part_bytes: Files beyond this size are sent in parts of it.
        conditional_writes: Refuse a server that lets two writers win.
        cache_root: What was read, and drafts; a folder of this machine, below ``home`` by default.
        cache_bytes: Beyond this the cache lets go of what was not used for longest.
    """

    model_config = SettingsConfigDict(env_prefix="INTERLOOM_S3_", frozen=True, extra="ignore")

    endpoint: str = "https://s3.amazonaws.com"
    region: str = "us-east-1"
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    session_token: SecretStr | None = None
    ca_file: Path | None = None
    timeout_s: PositiveFloat = 60.0
    patience_s: PositiveFloat = 120.0
    part_bytes: Annotated[int, Field(ge=MIN_PART_BYTES)] = 16 << 20
    conditional_writes: bool = True
    cache_root: Path | None = None
    cache_bytes: PositiveInt = 100 << 30
