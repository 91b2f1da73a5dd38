"""Many runs of one recipe that differ in a few values: run what is missing, compare all.

An arm is a run like any other, in a process of its own: what arms have in common is computed once,
and a sweep that is started again goes on with the arms that are not complete. All arms show
themselves in one Prefect server, which is started for them if none is named.
"""

import itertools
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from operator import or_
from pathlib import Path
from threading import Lock
from typing import IO

from interloom.bootstrap import Services
from interloom.config.overrides import parse_assignment
from interloom.config.settings import same_environment
from interloom.core.errors import ConfigError
from interloom.evaluation.learning import LearningPoint, learning_curve, value_at
from interloom.evaluation.numbers import Number, fold_intervals
from interloom_flows.parameters import PipelineParameters
from interloom_flows.planning import Plan, named_corpora, resolve
from interloom_flows.plotting import Line, Series, SeriesPoint, svg_lines, svg_plot
from interloom_flows.prefect_home import prefect_api
from interloom_flows.sweeps import Sweep

_COMMAND = (sys.executable, "-c", "from interloom_flows.cli import main; main()", "run")
_COMMA = re.compile(r",(?![^\[]*\])")  # outside of a list
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """How a sweep is run.

    Attributes:
        folder: Logs, table and plot go there.
        only: The stage at which each arm stops.
        num_jobs: Arms side by side.
    """

    folder: Path
    only: str | None = None
    num_jobs: int = 1


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What came of one arm.

    Attributes:
        overrides: What it changed.
        wall_s: How long it took now; None if everything was there.
        numbers: The results of all its stages, by name; empty if it failed.
        curves: Of its training, those that the sweep asks for, by name.
        error: The last line of its log, if it failed.
        name: What it is called; empty names it by its changes.
    """

    overrides: tuple[str, ...]
    wall_s: float | None
    numbers: tuple[Number, ...]
    error: str | None = None
    name: str = ""
    curves: Mapping[str, tuple[LearningPoint, ...]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name, or its changes in short."""
        return self.name or label_of(self.overrides)


def label_of(overrides: Sequence[str]) -> str:
    """Changes with the last part of their keys alone."""
    pairs = (override.partition("=") for override in overrides)
    shown = [f"{'.'.join(key.split('.')[-2:])}={value}" for key, _, value in pairs]
    return " ".join(shown) or "as it is"


def grid_arms(grid: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Every combination of ``key=a,b,c`` with ``key=d,e``.

    A value may be a list, ``key=[a,b],[c]``.

    Raises:
        ConfigError: One is not of that form, or a key stands twice.
    """
    axes = []
    for text in grid:
        key, _, values = text.partition("=")
        choices = [
            f"{key.strip()}={value.strip()}" for value in _COMMA.split(values) if value.strip()
        ]
        if not choices:
            raise ConfigError(f"--grid needs key=a,b,c, got {text!r}")
        for choice in choices:
            parse_assignment(choice)
        axes.append(choices)
    keys = [axis[0].partition("=")[0] for axis in axes]
    if len(set(keys)) != len(keys):
        raise ConfigError(f"--grid names a key twice: {', '.join(keys)}; give it all its values")
    return tuple(itertools.product(*axes))


def run_sweep(
    services: Services, sweep: Sweep, options: SweepOptions, say: Say
) -> tuple[ArmResult, ...]:
    """Run the arms that are not there yet; gives all, in their order.

    Raises:
        ConfigError: An arm is no valid recipe, found before anything runs.
    """
    arms = [_parameters(sweep, overrides, options) for overrides in sweep.arms]
    for parameters in arms:
        parameters.load()
    options.folder.mkdir(parents=True, exist_ok=True)
    demands = [_resolve(services, parameters).demand for parameters in arms]
    is_complete = not any(demands)
    services.launcher.check(reduce(or_, map(Counter, demands)))  # the most that an arm asks for
    settings = services.settings
    server = prefect_api(settings.home, settings.prefect_api_url)

    running = _Running()

    def run(place: int) -> ArmResult:
        return _run_arm(services, sweep, options, place, say, running)

    with nullcontext() if is_complete else server, ThreadPoolExecutor(options.num_jobs) as pool:
        try:
            return with_equal_data(list(pool.map(run, range(len(sweep.arms)))))
        except BaseException:
            pool.shutdown(cancel_futures=True, wait=False)
            running.end()
            raise


def with_equal_data(results: Sequence[ArmResult]) -> tuple[ArmResult, ...]:
    """Each with its curves where it had read what the first arm read in all, as numbers."""
    first = results[0].curves

    def number(name: str, curve: tuple[LearningPoint, ...]) -> Number | None:
        value = value_at(curve, first[name][-1].tokens) if first.get(name) else None
        return None if value is None else Number(equal_data_name(name), value)

    return tuple(
        replace(
            result,
            numbers=(
                *result.numbers,
                *(one for item in result.curves.items() if (one := number(*item)) is not None),
            ),
        )
        for result in results
    )


def equal_data_name(curve: str) -> str:
    """What a curve is called where all arms have read the same."""
    return f"equal_data/{curve.removeprefix('train/')}"


def save_comparison(
    results: Sequence[ArmResult], names: Sequence[str], columns: Sequence[str], folder: Path
) -> Path:
    """Write ``results.json``, ``table.md`` and ``plot.svg``; gives the plot's path.

    Curves are drawn over operations, each into ``CURVE.svg``.

    Args:
        results: The arms.
        names: Results for the plot and the table.
        columns: Results for the table alone.
        folder: Where to.
    """
    body = [asdict(result) for result in results]
    (folder / "results.json").write_text(json.dumps(body, indent=1), encoding="utf-8")
    curves = tuple(dict.fromkeys(name for result in results for name in result.curves))
    equal = tuple(map(equal_data_name, curves))
    table = "\n".join(_table(results, (*names, *equal, *columns)))
    (folder / "table.md").write_text(f"{table}\n", encoding="utf-8")
    series = tuple(
        Series(name, tuple(points)) for name in names if (points := list(_points(results, name)))
    )
    for name in curves:
        lines = [
            Line(result.label, tuple((one.flops, one.value) for one in result.curves[name]))
            for result in results
            if result.curves.get(name)
        ]
        drawn = svg_lines(lines, title=f"{name} over operations")
        (folder / f"{name.replace('/', '-')}.svg").write_text(drawn, encoding="utf-8")
    path = folder / "plot.svg"
    path.write_text(svg_plot(series, [result.label for result in results]), encoding="utf-8")
    return path


def shown_names(results: Sequence[ArmResult], asked: Sequence[str]) -> tuple[str, ...]:
    """The numbers to show: those asked for, or all that have an interval and are not all equal."""
    known = dict.fromkeys(number.name for result in results for number in result.numbers)
    if asked:
        return tuple(name for name in known if any(name.startswith(begin) for begin in asked))
    return tuple(
        name
        for name in known
        if len({(n.value, n.low) for r in results if (n := number_of(r, name)) is not None}) > 1
        and any((n := number_of(r, name)) is not None and n.low is not None for r in results)
    )


def number_of(result: ArmResult, name: str) -> Number | None:
    """One result of an arm."""
    return next((number for number in result.numbers if number.name == name), None)


def is_apart(one: Number | None, other: Number | None) -> bool:
    """Whether two intervals have no value in common."""
    if one is None or other is None:
        return False
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.high < other.low or other.high < one.low


def _parameters(
    sweep: Sweep, overrides: Sequence[str], options: SweepOptions
) -> PipelineParameters:
    only = options.only or sweep.only
    return PipelineParameters(recipe=sweep.recipe, overrides=tuple(overrides), only=only)


class _Running:
    """The processes of arms; whoever is told to end the sweep ends them all."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._is_ended = False
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start one.

        Raises:
            KeyboardInterrupt: The sweep was ended.
        """
        with self._lock:
            if self._is_ended:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            self._processes.append(process)
            return process

    def end(self) -> None:
        """Tell all to end, and let no other begin."""
        with self._lock:
            self._is_ended = True
            for process in self._processes:
                process.terminate()


def _run_arm(
    services: Services,
    sweep: Sweep,
    options: SweepOptions,
    place: int,
    say: Say,
    running: _Running,
) -> ArmResult:
    """One arm: reuse it, or run it as a command and read what it published."""
    overrides = sweep.arms[place]
    named = ArmResult(overrides, None, (), name=sweep.labels[place] if sweep.labels else "")
    name = f"arm {place + 1} of {len(sweep.arms)}, {named.label}"
    parameters = _parameters(sweep, overrides, options)
    plan = _resolve(services, parameters)
    if not plan.to_run:
        say(f"{name}: reused")
        return _measured(services, plan, sweep, named)
    say(f"{name}: {len(plan.to_run)} of {len(plan.steps)} stages to run")
    started_s = time.monotonic()
    log = options.folder / f"arm-{place + 1}.log"
    with log.open("wb") as file:
        command, environment = _command(services, parameters, options)
        code = running.start(command, environment, file).wait()
    wall_s = time.monotonic() - started_s
    if code:
        error = (log.read_text(errors="replace").strip().splitlines() or ["no word"])[-1]
        say(f"{name}: failed: {error}")
        return replace(named, wall_s=wall_s, error=error)
    say(f"{name}: done in {wall_s:.0f} s")
    done = replace(named, wall_s=wall_s)
    return _measured(services, _resolve(services, parameters), sweep, done)


def _measured(services: Services, plan: Plan, sweep: Sweep, result: ArmResult) -> ArmResult:
    """An arm with what its stages published."""
    trained = plan.reused.get("pretrain")
    points = services.catalog.metrics(trained.hit.run_id) if trained and sweep.curves else ()
    curves = {name: curve for name in sweep.curves if (curve := learning_curve(points, name))}
    return replace(result, numbers=_numbers(services, plan), curves=curves)


def _command(
    services: Services, parameters: PipelineParameters, options: SweepOptions
) -> tuple[list[str], dict[str, str]]:
    """``interloom run`` with its environment: the same home, and its share of the threads."""
    changes = [part for override in parameters.overrides for part in ("--set", override)]
    only = ["--only", parameters.only] if parameters.only is not None else []
    threads = max(1, services.settings.num_threads // options.num_jobs)
    environment = same_environment(
        {
            "INTERLOOM_HOME": str(services.settings.home.absolute()),
            "INTERLOOM_NUM_THREADS": str(threads),
        }
    )
    return [*_COMMAND, parameters.recipe, *changes, *only], environment


def _resolve(services: Services, parameters: PipelineParameters) -> Plan:
    recipe, steps = parameters.load()
    corpora = named_corpora(services.catalog, recipe)
    return resolve(services.contract, recipe, steps, corpora)


def _numbers(services: Services, plan: Plan) -> tuple[Number, ...]:
    """The results of all stages of a complete arm; what two of them measured, as the later did.

    Of each stage too how long it took and how much processor time, ``usage/STAGE/wall_s`` and
    ``usage/STAGE/cpu_s``.
    """
    values = dict[str, float]()
    for stage, reuse in plan.reused.items():
        values |= {one.name: one.value for one in services.catalog.results(reuse.hit.run_id)}
        usage = services.catalog.run(reuse.hit.run_id).usage
        values[f"usage/{stage}/wall_s"] = usage.wall_s
        values[f"usage/{stage}/cpu_s"] = usage.cpu_s
    return tuple(fold_intervals(values))


def _table(results: Sequence[ArmResult], names: Sequence[str]) -> Iterator[str]:
    """One line an arm and one column a result, in Markdown."""
    yield f"| | {' | '.join(names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    for result in results:
        cells = (_cell(number_of(result, name)) for name in names)
        yield f"| {result.label} | {' | '.join(cells)} |"


def _cell(number: Number | None) -> str:
    """A value with its interval, if it has one that is wider than itself."""
    if number is None or number.value is None:
        return ""
    if number.low is None or number.high is None or number.low == number.high:
        return f"{number.value:.4g}"
    return f"{number.value:.4g} ({number.low:.4g} to {number.high:.4g})"


def _points(results: Sequence[ArmResult], name: str) -> Iterator[SeriesPoint]:
    for place, result in enumerate(results):
        number = number_of(result, name)
        if number is not None and number.value is not None:
            yield SeriesPoint(place, number.value, number.low, number.high)
