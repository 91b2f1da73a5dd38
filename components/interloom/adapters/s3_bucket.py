"""One bucket through the ``minio`` client, with time-outs and retries."""

import hashlib
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.error import S3Error, ServerError
from pydantic import SecretStr

from interloom.adapters.s3_errors import (
    ABSENT,
    EXPECTED,
    BrokenTransferError,
    final_error,
    shown,
)
from interloom.adapters.staging import BLOCK_BYTES
from interloom.core.errors import ConfigError, TransientError
from interloom.ports.store import StoredObject

_CONNECT_S = 10.0
_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 10.0
_NUM_CONNECTIONS = 16
_NUM_PART_UPLOADS = 3
_PAGE = 1000  # objects of one answer to a listing

T = TypeVar("T")


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


@dataclass(frozen=True, slots=True)
class Head:
    """What the server says of an object without sending it."""

    num_bytes: int
    etag: str
    age_s: float


class S3Bucket:
    """Objects by key. A call is tried again until it is out of patience; safe for threads.

    Every method raises ``ConfigError`` for what only other settings can mend, and
    ``TransientError`` when patience is at an end.
    """

    def __init__(self, options: S3Options, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Prepare to connect; nothing is sent yet.

        Args:
            options: Where and as whom.
            sleep: Waits between two tries.

        Raises:
            ConfigError: The endpoint or the file of certificates is wrong.
        """
        self._options = options
        self._sleep = sleep
        self._http = _pool(options)
        token = options.session_token
        parts = _endpoint(options.endpoint)
        self._client = Minio(
            parts.netloc,
            access_key=options.access_key.get_secret_value(),
            secret_key=options.secret_key.get_secret_value(),
            session_token=token.get_secret_value() if token is not None else None,
            secure=parts.scheme == "https",
            region=options.region,
            http_client=self._http,
        )
        self.name = options.bucket

    @property
    def where(self) -> str:
        """The server and the bucket, for messages."""
        return f"the S3 store at {self._options.endpoint}, bucket {self.name!r},"

    def exists(self) -> bool:
        """Whether the bucket is there; these credentials are allowed to know."""
        return self._call("look for it", lambda: bool(self._client.bucket_exists(self.name)))

    def head(self, key: str) -> Head | None:
        """Size, tag and age of an object; None if there is none."""

        def look() -> Head:
            found = self._client.stat_object(self.name, key)
            return Head(found.size, (found.etag or "").strip('"'), _age_s(found.last_modified))

        return self._call(f"look at {key}", lambda: _if_there(look))

    def read(self, key: str) -> bytes | None:
        """A small object whole; None if there is none."""

        def fetch() -> bytes:
            with _given_back(self._client.get_object(self.name, key)) as response:
                return bytes(response.read())

        return self._call(f"read {key}", lambda: _if_there(fetch))

    def stream(self, key: str, take: Callable[[bytes], object], num_bytes: int) -> int | None:
        """Hand an object's bytes to ``take``, block by block, going on where a connection broke.

        Args:
            key: Of the object.
            take: Gets each block once, in order.
            num_bytes: The size that is expected; an object of another size is not fetched.

        Returns:
            The size that the server has; None if there is no such object.
        """
        taken = 0

        def go_on() -> int:
            nonlocal taken
            with _given_back(self._client.get_object(self.name, key, offset=taken)) as response:
                found = taken + int(response.headers.get("Content-Length", num_bytes - taken))
                if found != num_bytes:
                    return found
                for block in response.stream(BLOCK_BYTES):
                    take(block)
                    taken += len(block)
            if taken != num_bytes:
                raise BrokenTransferError(f"the answer ended after {taken} of {num_bytes} bytes")
            return found

        while True:
            before = taken
            try:
                return self._call(f"read {key}", lambda: _if_there(go_on))
            except TransientError:
                if taken == before:  # no headway at all
                    raise

    def write_file(self, key: str, path: Path, *, md5: str, num_bytes: int) -> None:
        """Write an object from a file, in parts if it is long; checked by the server's tag."""

        def send() -> None:
            with path.open("rb") as file:
                sent = self._client.put_object(
                    self.name,
                    key,
                    file,
                    num_bytes,
                    part_size=self._options.part_bytes,
                    num_parallel_uploads=_NUM_PART_UPLOADS,
                )
            _check_tag(sent.etag, md5)

        self._call(f"write {key}", send)

    def write(self, key: str, data: bytes) -> None:
        """Write a small object, whatever is there."""
        self._put(key, data, {})

    def write_new(self, key: str, data: bytes) -> bool:
        """Write a small object unless there is one: of many writers, one at most is told True.

        A writer whose first answer was lost on the way is told False although its bytes are there.
        """
        return self._put(key, data, {"If-None-Match": "*"})

    def copy(self, key: str, to: str) -> None:
        """Copy an object inside the bucket."""
        source = CopySource(self.name, key)
        self._call(f"copy {key}", lambda: self._client.copy_object(self.name, to, source))

    def remove(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""
        self._call(f"remove {key}", lambda: self._client.remove_object(self.name, key))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Every object below a prefix, with its whole key."""

        def page(after: str | None) -> tuple[Any, ...]:
            listing = self._client.list_objects(
                self.name, prefix=prefix, recursive=True, start_after=after
            )
            return tuple(islice(listing, _PAGE))

        after: str | None = None
        while items := self._call(f"list {prefix}", lambda start=after: page(start)):
            for item in items:
                yield StoredObject(item.object_name, item.size or 0, _age_s(item.last_modified))
            after = items[-1].object_name

    def _put(self, key: str, data: bytes, headers: dict[str, str]) -> bool:
        """Write with conditions, which the client's own method does not know; False if refused."""
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()

        def send() -> bool:
            address = self._client.get_presigned_url("PUT", self.name, key)
            response = self._http.urlopen("PUT", address, body=data, headers=dict(headers))
            if headers and response.status in {409, 412}:  # 409: another such write is going on
                return False
            if response.status >= 300:
                raise _error_of(response)
            _check_tag(response.headers.get("etag"), md5)
            return True

        return self._call(f"write {key}", send)

    def _call(self, what: str, call: Callable[[], T]) -> T:
        """Try until it succeeds, cannot succeed, or patience is at an end."""
        deadline_s = time.monotonic() + self._options.patience_s
        delay_s = _FIRST_DELAY_S
        while True:
            try:
                return call()
            except EXPECTED as error:
                if (final := final_error(error, self.where)) is not None:
                    raise final from None  # the cause may hold a signed address
                if time.monotonic() + delay_s > deadline_s:
                    raise TransientError(
                        f"{self.where} did not let us {what} within "
                        f"{self._options.patience_s:g} s: {shown(error)}; run again when it does"
                    ) from None
            self._sleep(delay_s)
            delay_s = min(_LONGEST_DELAY_S, 2 * delay_s)


def _if_there(look: Callable[[], T]) -> T | None:
    """What ``look`` finds; None if there is no such object."""
    try:
        return look()
    except S3Error as error:
        if error.code in ABSENT:
            return None
        raise


@contextmanager
def _given_back(response: Any) -> Iterator[Any]:
    """A response whose connection is given back, whole or broken."""
    try:
        yield response
    finally:
        response.close()
        response.release_conn()


def _check_tag(tag: str | None, md5: str) -> None:
    """Compare the tag of an object sent in one piece; servers that encrypt give another kind.

    Raises:
        BrokenTransferError: The server holds other bytes.
    """
    plain = (tag or "").strip('"')
    if len(plain) == len(md5) and plain.isalnum() and plain != md5:
        raise BrokenTransferError(f"the server's md5 is {plain}, expected {md5}")


def _error_of(response: Any) -> Exception:
    """An answer other than success, as the client would have put it."""
    with suppress(SyntaxError, ValueError):
        return S3Error.fromxml(response)
    return ServerError(f"status {response.status}", response.status)


def _pool(options: S3Options) -> urllib3.PoolManager:
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
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=min(_CONNECT_S, options.timeout_s), read=options.timeout_s),
        maxsize=_NUM_CONNECTIONS,
        retries=False,
        ssl_context=context,
    )


def _endpoint(endpoint: str) -> SplitResult:
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


def _age_s(written: datetime | None) -> float:
    """Seconds since then."""
    return (datetime.now(UTC) - written).total_seconds() if written is not None else 0.0
