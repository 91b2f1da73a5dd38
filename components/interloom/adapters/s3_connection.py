"""How a bucket is reached: address, credentials, certificates, time-outs."""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import urllib3
from pydantic import SecretStr

from interloom.core.errors import ConfigError

_CONNECT_S = 10.0
_NUM_CONNECTIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """How a bucket is reached.

    Attributes:
        endpoint: ``https://host[:port]``, or ``http://`` where no TLS is wanted.
        bucket: Its name.
        access_key: Half of the credentials.
        secret_key: The other half.
        session_token: For credentials that expire.
        region: As the server calls it.
        ca_file: Certificates to trust, for a private authority; by default those of the system.
        timeout_s: How long a single answer may be awaited.
        patience_s: How long one and the same operation is tried again without headway.
        part_bytes: Files beyond this size are sent in parts of it.
    """

    endpoint: str
    bucket: str
    access_key: SecretStr
    secret_key: SecretStr
    session_token: SecretStr | None = None
    region: str = "us-east-1"
    ca_file: Path | None = None
    timeout_s: float = 60.0
    patience_s: float = 120.0
    part_bytes: int = 16 << 20


def connections(options: S3Options) -> urllib3.PoolManager:
    """Connections with time-outs, and without retries: those are ours.

    Raises:
        ConfigError: The file of certificates is not there or holds none.
    """
    if options.ca_file is not None and not options.ca_file.is_file():
        raise ConfigError(f"INTERLOOM_S3_CA_FILE: {options.ca_file} does not exist")
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except ssl.SSLError:
        raise ConfigError(f"INTERLOOM_S3_CA_FILE: {options.ca_file} holds no certificate") from None
    logging.getLogger("urllib3.connectionpool").addFilter(_is_unsigned)
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=min(_CONNECT_S, options.timeout_s), read=options.timeout_s),
        maxsize=_NUM_CONNECTIONS,
        retries=False,
        ssl_context=context,
    )


def endpoint_parts(endpoint: str) -> SplitResult:
    """The parts of the endpoint's URL.

    Raises:
        ConfigError: It is none, or holds more than scheme, host and port.
    """
    parts = urlsplit(endpoint)
    try:
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or parts.path.strip("/") or parts.query or parts.username is not None:
        raise ConfigError(
            "INTERLOOM_S3_ENDPOINT: expected http://host[:port] or https://host[:port] and nothing "
            f"else, got {parts.scheme or 'no scheme'}://{parts.hostname or ''}"
        )
    return parts


def _is_unsigned(record: logging.LogRecord) -> bool:
    """Whether a line of the log may be written: a signed address is good for whoever reads it."""
    return "X-Amz-Signature" not in record.getMessage()
