"""One bucket through the ``minio`` client, with time-outs and retries."""

import hashlib
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from html import unescape
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from minio import Minio
from minio.commonconfig import CopySource
from minio.error import S3Error, ServerError

from interloom.adapters.s3_connection import S3Options, connections, endpoint_parts
from interloom.adapters.s3_errors import (
    ABSENT,
    EXPECTED,
    BrokenTransferError,
    final_error,
    shown,
    status_of,
)
from interloom.adapters.staging import BLOCK_BYTES
from interloom.core.errors import InterloomError, TransientError
from interloom.ports.store import StoredObject

_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 10.0
_ADDRESS_LIVES = timedelta(hours=1)  # how long a signed address is good for
_NUM_PART_UPLOADS = 3
_NUM_LESSONS = 3  # so that one broken transfer teaches nothing wrong
_PAGE = 1000  # objects of one answer to a listing

T = TypeVar("T")


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
        self._http = connections(options)
        token = options.session_token
        parts = endpoint_parts(options.endpoint)
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
        self._has_md5_tags = False

    def learn_tags(self, key: str) -> None:
        """Write a small object, to learn whether this server's tags are the md5 of the bytes.

        If they are, every later write is checked by its tag; a server that encrypts has others.
        """
        for _ in range(_NUM_LESSONS):
            self.write(key, b"interloom")
            found = self.head(key)
            if found is not None and found.etag == _md5(b"interloom"):
                self._has_md5_tags = True
                return

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

    def write_file(self, key: str, path: Path, *, num_bytes: int) -> None:
        """Write an object from a file, in parts if it is long; each is tried again by itself.

        The parts of a writer that was killed are no part of any object; they stay on the server
        until ``end_uploads``.
        """
        if num_bytes <= self._options.part_bytes:
            self.write(key, path.read_bytes())
            return
        upload_id = self._call(
            f"write {key}", lambda: _element(self._send("POST", key, {"uploads": ""}), "UploadId")
        )
        starts = range(0, num_bytes, self._options.part_bytes)
        try:
            with ThreadPoolExecutor(_NUM_PART_UPLOADS) as pool:
                tags = list(pool.map(partial(self._write_part, key, upload_id, path), starts))
            self._complete(key, upload_id, tags)
        except BaseException:
            with suppress(InterloomError):
                self._abort(key, upload_id)
            raise

    def end_uploads(self, prefix: str, *, age_s: float) -> int:
        """Let go of the parts of uploads that began so long ago; how many uploads that were."""
        ended = 0
        for upload in self._call(f"list uploads of {prefix}", lambda: tuple(self._uploads(prefix))):
            if _age_s(upload.initiated_time) >= age_s:
                self._abort(upload.object_name, upload.upload_id)
                ended += 1
        return ended

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

    def list(self, prefix: str, *, page_size: int = _PAGE) -> Iterator[StoredObject]:
        """Every object below a prefix, with its whole key; asked for page by page."""

        def page(after: str | None) -> tuple[Any, ...]:
            listing = self._client.list_objects(
                self.name, prefix=prefix, recursive=True, start_after=after
            )
            return tuple(islice(listing, page_size))

        after: str | None = None
        while items := self._call(f"list {prefix}", partial(page, after)):
            for item in items:
                yield StoredObject(item.object_name, item.size or 0, _age_s(item.last_modified))
            after = items[-1].object_name

    def _write_part(self, key: str, upload_id: str, path: Path, start: int) -> str:
        """Send one part; returns its tag."""
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(self._options.part_bytes)
        number = start // self._options.part_bytes + 1
        query = {"partNumber": str(number), "uploadId": upload_id}

        def send() -> str:
            response = self._send("PUT", key, query, data)
            tag = str(response.headers.get("etag", "")).strip('"')
            self._check_tag(tag, _md5(data))
            return tag

        return self._call(f"write part {number} of {key}", send)

    def _complete(self, key: str, upload_id: str, tags: Sequence[str]) -> None:
        """Make the parts an object."""
        whole = _md5(b"".join(bytes.fromhex(tag) for tag in tags)) if self._has_md5_tags else ""
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{tag}&quot;</ETag></Part>"
            for number, tag in enumerate(tags, start=1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()

        def send() -> str:
            try:
                return _element(self._send("POST", key, {"uploadId": upload_id}, body), "ETag")
            except S3Error as error:
                if error.code != "NoSuchUpload":
                    raise
            found = self.head(key)  # the answer to an earlier try may have been lost
            if found is None:
                raise BrokenTransferError("the parts that were sent are gone")
            return found.etag

        self._check_tag(self._call(f"write {key}", send), f"{whole}-{len(tags)}")

    def _uploads(self, prefix: str) -> Iterator[Any]:
        """Every upload in parts that goes on or was left, page by page."""
        key, upload_id = "", ""
        while True:
            # The client can list them, but has not made the method public.
            page = self._client._list_multipart_uploads(  # noqa: SLF001
                self.name, prefix=prefix, key_marker=key, upload_id_marker=upload_id
            )
            yield from page.uploads
            if not page.is_truncated:
                return
            key, upload_id = page.next_key_marker or "", page.next_upload_id_marker or ""

    def _abort(self, key: str, upload_id: str) -> None:
        """Let go of parts; nothing happens if there are none."""
        query = {"uploadId": upload_id}
        self._call(f"remove {key}", lambda: _if_there(lambda: self._send("DELETE", key, query)))

    def _put(self, key: str, data: bytes, headers: dict[str, str]) -> bool:
        """Write with conditions; False if they do not hold."""

        def send() -> bool:
            try:
                response = self._send("PUT", key, {}, data, headers)
            except (S3Error, ServerError) as error:
                if headers and status_of(error) in {409, 412}:  # 409: another one is going on
                    return False
                raise
            self._check_tag(response.headers.get("etag"), _md5(data))
            return True

        return self._call(f"write {key}", send)

    def _send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """One signed request, for what the client's own methods do not know.

        Raises:
            S3Error: The server refuses.
            ServerError: Without saying why.
        """
        address = self._client.get_presigned_url(
            method, self.name, key, expires=_ADDRESS_LIVES, extra_query_params=dict(query)
        )
        md5 = b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        sent = {"Content-MD5": md5, **(headers or {})} if body else {}
        response = self._http.urlopen(method, address, body=body or None, headers=sent)
        if response.status >= 300 or b"<Error>" in response.data[:200]:
            raise _error_of(response)
        return response

    def _check_tag(self, tag: str | None, expected: str) -> None:
        """Compare the tag of what was written with that of what was sent.

        Raises:
            BrokenTransferError: The server holds other bytes.
        """
        found = (tag or "").strip('"')
        if self._has_md5_tags and found and found != expected:
            raise BrokenTransferError(f"the server's tag is {found}, expected {expected}")

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


def _element(response: Any, name: str) -> str:
    """The text of an element of an answer in XML.

    Raises:
        BrokenTransferError: It is not there.
    """
    found = re.search(rf"<{name}>([^<]+)</{name}>".encode(), response.data)
    if found is None:
        raise BrokenTransferError(f"the server's answer has no {name}")
    return unescape(found[1].decode()).strip('"')


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _error_of(response: Any) -> Exception:
    """An answer other than success, as the client would have put it."""
    error: Exception = ServerError(f"status {response.status}", response.status)
    with suppress(SyntaxError, ValueError):
        error = S3Error.fromxml(response)
    return error


def _age_s(written: datetime | None) -> float:
    """Seconds since then."""
    return (datetime.now(UTC) - written).total_seconds() if written is not None else 0.0
