"""Every page on a real catalog and store, by Streamlit's own test harness."""

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from interloom_dashboards import app

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # Streamlit's own deprecations
]

PAGES = [
    "overview_page",
    "runs_page",
    "training_page",
    "comparison_page",
    "lineage_page",
    "quality_page",
    "results_page",
]


def open_page(name: str) -> AppTest:
    script = f"from interloom_dashboards.app import {name}\n{name}()"
    return AppTest.from_string(script, default_timeout=60).run()


@pytest.fixture(autouse=True)
def _fresh_services() -> None:
    from interloom_dashboards.world import services

    services.clear()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_draws_a_finished_pipeline(
    page: str, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOOM_HOME", str(world.home))

    shown = open_page(page)

    assert not shown.exception
    assert shown.title or shown.subheader


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_to_do_when_there_is_nothing(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOOM_HOME", str(tmp_path))

    shown = open_page(page)

    words = [item.value for item in (*shown.info, *shown.subheader)]
    assert not shown.exception
    assert any("interloom run starter" in text for text in words)


def test_every_page_is_on_the_menu(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOOM_HOME", str(world.home))

    shown = AppTest.from_file(app.__file__, default_timeout=60).run()

    assert not shown.exception
    assert shown.title[0].value == "Interloom"
