"""Run benchmarks and write the table of README.md.

    python benchmarks                    # all of them
    python benchmarks packing publish    # these; the other rows of the table stay

Each script prints one JSON object as its last line. The objects are kept in ``results.json``, and
the table is drawn from them.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- benchmarks: written by make bench -->\n", "<!-- end of benchmarks -->\n"
HEAD = "| benchmark | Interloom | peer | ratio |\n| --- | --- | --- | --- |\n"

Result = Mapping[str, Any]


def names() -> list[str]:
    """Every benchmark there is."""
    return sorted(path.stem for path in HERE.glob("[a-z]*.py"))


def run(name: str) -> Result:
    """The last line of one benchmark; what it prints before is shown.

    Raises:
        SystemExit: It failed.
    """
    process = subprocess.run(
        [sys.executable, str(HERE / f"{name}.py")], check=False, stdout=subprocess.PIPE, text=True
    )
    sys.stdout.write(process.stdout)
    if process.returncode:
        raise SystemExit(f"{name} ended with exit code {process.returncode}")
    result: Result = json.loads(process.stdout.rstrip().rpartition("\n")[2])
    return result


def draw(results: Mapping[str, Result]) -> str:
    """The table: one line for each configuration of each benchmark."""
    return HEAD + "".join(line for name in sorted(results) for line in _lines(results[name]))


def _lines(result: Result) -> Iterator[str]:
    for config in result["configs"]:
        sides = {key: value for key, value in config.items() if _is_side(value)}
        ours = sides.pop("interloom")["median"]
        settings = ", ".join(
            f"{key} {value}"
            for key, value in config.items()
            if isinstance(value, int | float | str) and key != "ratio"
        )
        peers = ", ".join(f"{name} {side['median']:,}" for name, side in sides.items())
        ratio = f"{config['ratio']:g} x" if "ratio" in config else ""
        yield (
            f"| `{result['figure']}` ({settings}), {result['unit']} "
            f"| {ours:,} | {peers} | {ratio} |\n"
        )


def _is_side(value: object) -> bool:
    return isinstance(value, Mapping) and "median" in value


def write(readme: Path, table: str) -> None:
    """Put the table between its two marks.

    Raises:
        SystemExit: The marks are not there.
    """
    text = readme.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{readme.name} lacks the lines {BEGIN!r} and {END!r}")
    before, _, rest = text.partition(BEGIN)
    readme.write_text(before + BEGIN + table + END + rest.partition(END)[2])


def main(asked: Sequence[str]) -> None:
    """Run, keep, draw."""
    if unknown := sorted(set(asked) - set(names())):
        raise SystemExit(f"no benchmark {', '.join(unknown)}; there are {', '.join(names())}")
    results: dict[str, Result] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in asked or names():
        print(f"== {name}", flush=True)
        results[name] = run(name)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    kept = json.loads(RESULTS.read_text())  # in the order in which it is kept
    write(README, draw({name: one for name, one in kept.items() if name in names()}))


if __name__ == "__main__":
    main(sys.argv[1:])
