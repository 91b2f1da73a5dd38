"""A Prefect server of our own: quiet, on a free loopback port, gone when its parent goes.

It is run as ``python -m interloom_flows.prefect_server``. It says ``ready PORT`` on its standard
output once it answers, and leaves when its standard input closes, which the kernel does even for
a parent that was killed.
"""

import os
import socket
import sys
import threading

import uvicorn


class _Announcing(uvicorn.Server):
    """Tells the parent the port once requests are answered."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self._listener = listener

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(f"ready {self._listener.getsockname()[1]}\n")
        sys.stdout.flush()


def serve() -> None:
    """Serve until the parent closes our standard input or dies."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(_app, factory=True, log_level="error", access_log=False)
    _Announcing(config, listener).run(sockets=[listener])


def _app() -> object:
    from prefect.server.api.server import create_app

    return create_app(ephemeral=True)


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    serve()
