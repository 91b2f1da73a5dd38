"""What code a stage's key stands for."""

import sys
from pathlib import Path

import pytest

from interloom.core.errors import MissingError
from interloom.stages.closure import closure, code_digest, lock_file


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / f"loomlet_{tmp_path.name}"  # where a package lies is looked up once
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "stage.py").write_text(f"def stage():\n    from {folder.name}.deep import thing\n")
    (folder / "deep.py").write_text("import json\nfrom interloom.core import spans\nthing = 1\n")
    (folder / "unrelated.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_imports_inside_functions_and_into_other_packages_are_followed(package: Path) -> None:
    found = closure(f"{package.name}.stage")

    assert set(found.modules) == {
        "interloom",
        "interloom.core",
        "interloom.core.spans",
        package.name,
        f"{package.name}.deep",
        f"{package.name}.stage",
    }
    assert {"json", "math"} <= set(found.external)
    assert package.name not in sys.modules


def test_a_change_below_changes_the_digest_and_one_beside_does_not(package: Path) -> None:
    before = code_digest(f"{package.name}.stage")

    (package / "unrelated.py").write_text("x = 2\n")
    beside = code_digest(f"{package.name}.stage")
    (package / "deep.py").write_text("from interloom.core import spans\nthing = 2\n")

    assert before == beside
    assert code_digest(f"{package.name}.stage") != before


def test_data_beside_the_code_counts(package: Path) -> None:
    before = code_digest(f"{package.name}.stage")

    (package / "words.json").write_text('["a"]')

    assert code_digest(f"{package.name}.stage") != before


def test_extra_modules_count(package: Path) -> None:
    assert code_digest(f"{package.name}.stage") != code_digest(
        f"{package.name}.stage", f"{package.name}.unrelated"
    )


def test_a_module_that_is_not_there_is_named(package: Path) -> None:
    with pytest.raises(MissingError, match=r"there is no module 'loomlet_.*nothing'"):
        closure(f"{package.name}.nothing")
    with pytest.raises(MissingError, match="'nosuchpackage' is not installed"):
        closure("nosuchpackage.stage")


def test_the_lock_file_is_found() -> None:
    assert "torch==" in lock_file().read_text()
