import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "__main__.py"
RESULT = {
    "figure": "packing",
    "unit": "documents/s",
    "configs": [
        {
            "documents": 20_000,
            "interloom": {"median": 1500, "min": 1400, "max": 1600},
            "linear search": {"median": 30, "min": 29, "max": 31},
            "ratio": 50.0,
        }
    ],
    "ratio": 50.0,
}


@pytest.fixture
def benchmarks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_has_a_line_for_each_configuration(benchmarks: ModuleType) -> None:
    *_, line = benchmarks.draw({"packing": RESULT}).splitlines()

    assert line == (
        "| `packing` (documents 20000), documents/s | 1,500 | linear search 30 | 50 x |"
    )


def test_only_what_stands_between_the_marks_is_replaced(
    benchmarks: ModuleType, tmp_path: Path
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{benchmarks.BEGIN}old\n{benchmarks.END}after\n")

    benchmarks.write(readme, "new\n")

    assert readme.read_text() == f"before\n{benchmarks.BEGIN}new\n{benchmarks.END}after\n"


def test_a_readme_without_the_marks_is_left_alone(benchmarks: ModuleType, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n")

    with pytest.raises(SystemExit, match=r"README\.md lacks the lines"):
        benchmarks.write(readme, "new\n")

    assert readme.read_text() == "before\n"


def test_an_unknown_benchmark_is_refused_with_the_names_there_are(benchmarks: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"no benchmark nonsense; there are .*packing"):
        benchmarks.main(["nonsense"])


def test_a_benchmark_that_fails_ends_the_run(
    benchmarks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("import sys; sys.exit(3)")
    monkeypatch.setattr(benchmarks, "HERE", tmp_path)

    with pytest.raises(SystemExit, match="broken ended with exit code 3"):
        benchmarks.run("broken")


def test_the_last_line_of_a_benchmark_is_its_result(
    benchmarks: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "quick.py").write_text("print('on the way')\nprint('{\"figure\": \"quick\"}')")
    monkeypatch.setattr(benchmarks, "HERE", tmp_path)

    assert benchmarks.run("quick") == {"figure": "quick"}
    assert "on the way" in capsys.readouterr().out


def test_the_readme_holds_the_table_of_the_kept_results(benchmarks: ModuleType) -> None:
    results = json.loads(benchmarks.RESULTS.read_text())
    _, _, rest = benchmarks.README.read_text().partition(benchmarks.BEGIN)

    assert rest.partition(benchmarks.END)[0] == benchmarks.draw(results)
    assert set(results) <= set(benchmarks.names())


def test_the_table_is_that_of_the_kept_results(
    benchmarks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"words": 4, "documents": 2, "interloom": {"median": 3}}
    result = {"figure": "toy", "unit": "words/s", "configs": [config]}
    (tmp_path / "toy.py").write_text(f"import json; print(json.dumps({result!r}))")
    for name, value in (("HERE", ""), ("RESULTS", "results.json"), ("README", "README.md")):
        monkeypatch.setattr(benchmarks, name, tmp_path / value)
    benchmarks.README.write_text(f"{benchmarks.BEGIN}{benchmarks.END}")

    benchmarks.main(["toy"])

    table = benchmarks.draw(json.loads(benchmarks.RESULTS.read_text()))
    assert table in benchmarks.README.read_text()
