"""What a user installs: three packages of our own name, and nothing beside them."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_our_three_packages_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "interloom",
        "interloom_flows",
        "interloom_dashboards",
    }


def test_the_wheel_carries_recipes_migrations_lock_file_and_type_marker(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    assert "interloom/constraints.txt" in names
    assert "interloom/py.typed" in names
    assert "interloom_flows/recipes/starter.toml" in names
    assert any(name.startswith("interloom/adapters/migrations/versions/") for name in names)


def test_the_wheel_passes_its_checker(wheel: Path) -> None:
    checker = Path(sys.executable).with_name("check-wheel-contents")

    checked = subprocess.run(
        [checker, wheel], capture_output=True, text=True, cwd=ROOT, check=False
    )

    assert checked.returncode == 0, checked.stdout


def test_the_installed_wheel_plans_a_recipe(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True, system_site_packages=False)
    python = str(tmp_path / "env" / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)],
        check=True,
        capture_output=True,
    )
    site = next((tmp_path / "env" / "lib").glob("python3*/site-packages"))
    dependencies = next(Path(sys.prefix).glob("lib/python3*/site-packages"))
    (site / "dependencies.pth").write_text(f"{dependencies}\n")  # theirs, after our own
    environment = {**os.environ, "INTERLOOM_HOME": str(tmp_path / "home")}
    command = [str(tmp_path / "env" / "bin" / "interloom"), "plan", "smoke"]

    planned = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    where = subprocess.run(
        [python, "-c", "import interloom; print(interloom.__file__)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )

    assert planned.returncode == 0, planned.stderr
    assert "train_tokenizer" in planned.stdout
    assert where.stdout.startswith(str(site))
