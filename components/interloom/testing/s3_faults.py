"""A faulty way to a real S3 server: a small proxy that delays, cuts, flips and refuses."""

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

FaultKind = Literal[
    "refuse",  # answer with ``status`` and ``code``; the server never hears of the request
    "delay",  # hand the request on ``seconds`` late
    "drop",  # break the connection before the server hears of the request
    "lose_answer",  # break it after the server did what was asked
    "cut_answer",  # break it in the middle of the answer's body
    "flip_answer",  # change one bit of the answer's body
    "flip_request",  # change one bit of what is sent
    "kill_before",  # SIGKILL the process ``pid`` before the server hears of the request
    "kill_after",  # SIGKILL it after the server did what was asked
]


@dataclass(frozen=True, slots=True)
class Request:
    """What the proxy was asked for, the ``index``-th time since it was opened."""

    index: int
    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request."""

    kind: FaultKind
    status: int = 503
    code: str = "SlowDown"
    seconds: float = 0.0
    pid: int = 0


Plan = Callable[[Request], Fault | None]


class FaultyWay:
    """The proxy: where it listens, and what it did."""

    def __init__(self, port: int, upstream_port: int, plan: Plan, deaf_to: Collection[str]) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.upstream_port = upstream_port
        self.plan = plan
        self.deaf_to = deaf_to
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._lock = threading.Lock()

    def judge(self, method: str, path: str) -> Fault | None:
        """Count a request and decide on its fate."""
        with self._lock:
            request = Request(len(self.requests), method, path)
            self.requests.append(request)
            fault = self.plan(request)
            if fault is not None:
                self.faults.append(fault)
            return fault


@contextmanager
def faulty_way(
    upstream_port: int, plan: Plan, *, deaf_to: Collection[str] = ()
) -> Iterator[FaultyWay]:
    """A proxy in front of a port of this machine, while the block runs.

    Args:
        upstream_port: Of the server.
        plan: Decides on the fate of each request.
        deaf_to: Headers, in small letters, that are not handed on, as if the server knew none.
    """
    server = _Server(("127.0.0.1", 0), _Handler)
    server.way = FaultyWay(server.server_port, upstream_port, plan, deaf_to)
    thread = threading.Thread(target=lambda: server.serve_forever(0.05), daemon=True)
    thread.start()
    try:
        yield server.way
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    way: FaultyWay

    def handle_error(self, request: object, client_address: object) -> None:
        """A broken connection is what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_any(self) -> None:
        """Take a request, let its fate come true, hand it on, answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.way.judge(self.command, self.path)
        if fault is not None:
            if _before(fault):
                self._break()
                return
            if fault.kind == "refuse":
                self._refuse(fault)
                return
            if fault.kind == "flip_request":
                body = _flipped(body)
        try:
            status, headers, data = self._ask(body)
        except OSError:  # the server is away
            self._break()
            return
        self._answer(status, headers, data, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The server's own answer."""
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.way.upstream_port, 60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in self.server.way.deaf_to:
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            response = upstream.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            upstream.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, fault: Fault | None
    ) -> None:
        kind = fault.kind if fault is not None else None
        if fault is not None and kind == "kill_after":
            with suppress(ProcessLookupError):
                os.kill(fault.pid, signal.SIGKILL)
        if kind in {"lose_answer", "kill_after"}:
            self._break()
            return
        if kind == "flip_answer":
            data = _flipped(data)
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"transfer-encoding", "content-length", "connection"}:
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length")
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if kind == "cut_answer" else data)
        if kind == "cut_answer":
            self._break()

    def _refuse(self, fault: Fault) -> None:
        data = (
            b""
            if self.command == "HEAD"
            else (f"<Error><Code>{fault.code}</Code><Message>as planned</Message></Error>".encode())
        )
        self.send_response_only(fault.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _break(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _before(fault: Fault) -> bool:
    """What happens before the server hears of a request; whether it never will."""
    if fault.kind == "delay":
        time.sleep(fault.seconds)
    if fault.kind == "kill_before":
        with suppress(ProcessLookupError):
            os.kill(fault.pid, signal.SIGKILL)
    return fault.kind in {"drop", "kill_before"}


def _flipped(data: bytes) -> bytes:
    """The same bytes but for one bit in the middle."""
    if not data:
        return data
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    return bytes(changed)
