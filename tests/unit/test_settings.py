"""Where things are."""

import subprocess
import sys
from pathlib import Path

import pytest

from interloom.bootstrap import connect
from interloom.config.settings import Settings, child_environment, load_settings
from interloom.core.errors import ConfigError
from interloom.core.ids import new_run_id


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "STORE_ROOT", "DATABASE_URL", "LEASE_TTL_S"):
        monkeypatch.delenv(f"INTERLOOM_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_everything_lies_below_home_by_default(tmp_path: Path) -> None:
    settings = load_settings()

    assert settings.store_url == str(tmp_path / ".interloom" / "store")
    assert settings.catalog_url == f"sqlite:///{tmp_path}/.interloom/catalog.sqlite"


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOOM_DATABASE_URL", "postgresql+psycopg://me:hidden@db/x")

    settings = load_settings()

    assert "hidden" not in repr(settings)
    assert settings.catalog_url.startswith("postgresql+psycopg://me:hidden@")


def test_a_variable_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOOM_LEASE_TTL_S", "soon")

    with pytest.raises(ConfigError, match=r"INTERLOOM_LEASE_TTL_S: .*valid number.*got 'soon'"):
        load_settings()


def test_a_stages_process_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOOM_DATABASE_URL", "postgresql+psycopg://me:hidden@db/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")

    environment = child_environment({"OMP_NUM_THREADS": "2"})

    assert "hidden" not in environment.values()
    assert environment["OMP_NUM_THREADS"] == "2"


def test_connecting_makes_what_is_not_there(tmp_path: Path) -> None:
    services = connect(Settings(home=tmp_path / "home"))

    assert services.catalog.datasets() == []
    assert (tmp_path / "home" / "catalog.sqlite").is_file()
    services.close()


def test_run_ids_sort_by_time() -> None:
    ids = [new_run_id() for _ in range(100)]

    assert len(set(ids)) == 100
    assert [run_id[:18] for run_id in ids] == sorted(run_id[:18] for run_id in ids)


@pytest.mark.slow
def test_a_stages_runner_starts_light() -> None:
    heavy = "('torch', 'prefect', 'sqlalchemy', 'streamlit', 'great_expectations', 'deepspeed')"
    program = (
        "import sys, interloom.stages.__main__\n"
        "from interloom.stages.registry import STAGES, load_stage\n"
        "for name in STAGES: load_stage(name)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )

    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert shown.stdout.strip() == "[]"
