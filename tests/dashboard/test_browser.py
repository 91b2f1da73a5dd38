"""The dashboard in a real browser: what a person sees, and that playing a page breaks nothing."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interloom_dashboards import app

CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install Debian's package"),
]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def address(world: Any) -> Iterator[str]:
    """A running dashboard over the small installation."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", app.__file__]
    options = [
        f"--server.port={port}",
        "--server.address=127.0.0.1",
        "--server.headless=true",
        "--browser.gatherUsageStats=false",
    ]
    environment = {**os.environ, "INTERLOOM_HOME": str(world.home)}
    server = subprocess.Popen(
        command + options, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{url}/_stcore/health", server)
        yield url
    finally:
        server.kill()  # it holds nothing
        server.wait()


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert server.poll() is None, "the dashboard ended"
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310 - our own server
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the dashboard did not answer within a minute")


def test_a_person_sees_each_page(address: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    seen = {
        "": "starter finished",
        "runs": "Curves of",
        "lineage": "artifacts. Dashed stages",
        "quality": "All 1 checks hold.",
        "results": "The bot answers",
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        for name, words in seen.items():
            page.goto(f"{address}/{name}")
            page.get_by_text(words).first.wait_for(timeout=30_000)
            assert page.locator("[data-testid=stException]").count() == 0
            assert page.get_by_text("Page not found").count() == 0
            page.screenshot(path=str(tmp_path / f"page-{name}.png"))
        browser.close()

    assert all((tmp_path / f"page-{name}.png").stat().st_size > 5_000 for name in seen)
