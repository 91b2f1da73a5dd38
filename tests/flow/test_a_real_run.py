"""The whole chain through the installed command, with a Prefect server of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from interloom.bootstrap import connect
from interloom.config.settings import Settings
from interloom.ports.catalog import RunState
from interloom_flows.results import find_run, summarise

pytestmark = pytest.mark.slow

COMMAND = "import sys; from interloom_flows.cli import main; main()"
# A process that a shell put into the background ignores interrupts, and so would its children.
HEARING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
# Leaves by SystemExit, so what was imported is written on the way out.
TELLING = (
    "import atexit, sys\n"
    "atexit.register(lambda: open('modules', 'w').write(' '.join(sys.modules)))\n"
    "from interloom_flows.cli import main; main()"
)
HEAVY = {"torch", "prefect", "deepspeed", "great_expectations", "streamlit", "transformers"}
FIRST = ("run", "smoke", "--only", "train_tokenizer")


def environment(folder: Path) -> Mapping[str, str]:
    return {
        **os.environ,
        "INTERLOOM_HOME": str(folder / "home"),
        "INTERLOOM_LEASE_TTL_S": "4",
        "PYTHONWARNINGS": "default",
    }


def interloom(
    folder: Path, *arguments: str, program: str = COMMAND
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )


def outputs(folder: Path) -> Mapping[str, str]:
    services = connect(Settings(home=folder / "home"))
    summary = summarise(services.catalog, find_run(services.catalog, "last"))
    services.close()
    return {name: ref.id for name, ref in summary.outputs.items()}


def spans_accepted(folder: Path) -> float:
    """Which part of the evaluation's spans the run's own text-to-token model could speak."""
    services = connect(Settings(home=folder / "home"))
    numbers = summarise(services.catalog, find_run(services.catalog, "last")).numbers["evaluate"]
    services.close()
    (share,) = (one.value for one in numbers if one.name == "text_to_token/accepted")
    assert share is not None
    return share


@dataclass(frozen=True)
class Smoked:
    """A folder in which the smoke recipe has run, and what it said."""

    folder: Path
    said: "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="module")
def smoked(tmp_path_factory: pytest.TempPathFactory) -> Smoked:
    folder = tmp_path_factory.mktemp("smoked")
    return Smoked(folder, interloom(folder, "run", "smoke"))


def test_the_smoke_recipe_passes_all_stages(smoked: Smoked) -> None:
    assert smoked.said.returncode == 0, smoked.said.stderr
    assert "cloze/S->S" in smoked.said.stdout
    assert smoked.said.stderr.count("done in") == 12
    lines = smoked.said.stdout.splitlines()
    sounds = [line.removeprefix("listen: ") for line in lines if line.endswith(".wav")]
    heard = {Path(one).name for one in sounds if (smoked.folder / one).stat().st_size > 44}
    spoken = {"synthesised_span.wav"} if spans_accepted(smoked.folder) else set[str]()
    assert heard >= {"recording.wav", "reconstruction.wav"} | spoken  # the chatbot may be silent


def test_a_second_run_reuses_everything_and_imports_no_torch(smoked: Smoked) -> None:
    again = interloom(smoked.folder, "run", "smoke", program=TELLING)

    assert again.returncode == 0, again.stderr
    assert again.stderr.count("reused") == 12
    assert not HEAVY & set((smoked.folder / "modules").read_text().split())


def test_another_mixture_would_run_from_mix_on(smoked: Smoked) -> None:
    planned = interloom(smoked.folder, "plan", "smoke", "--set", "mixture.text.budget.share=0.25")

    assert "mixture.text.budget.share 0.3 -> 0.25" in planned.stdout
    assert "4 of 12 stages would run" in planned.stdout


def test_a_killed_run_goes_on_and_ends_with_the_same_artifacts(
    smoked: Smoked, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *FIRST],
        cwd=tmp_path,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    children = _once_training(process)
    process.kill()
    process.communicate()
    assert _are_gone(children)
    again = interloom(tmp_path, *FIRST)

    assert again.returncode == 0, again.stderr
    made = outputs(tmp_path)
    assert "tokenizer" in made
    assert made.items() <= outputs(smoked.folder).items()
    assert not list((tmp_path / "home" / "prefect").glob("server-*"))


def test_a_killed_prefect_server_is_named_and_the_same_command_goes_on(
    smoked: Smoked, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *FIRST],
        cwd=tmp_path,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    (server,) = (
        child
        for child in _once_training(process)
        if "interloom_flows.prefect_server" in child.cmdline()
    )
    server.kill()
    _, said = process.communicate()
    again = interloom(tmp_path, *FIRST)

    assert process.returncode == 75, said
    assert "the Prefect server at http://127.0.0.1" in said
    assert "does not answer" in said
    assert again.returncode == 0, again.stderr
    assert outputs(tmp_path).items() <= outputs(smoked.folder).items()


def test_a_server_that_is_named_and_away_stops_the_run_before_any_stage(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", COMMAND, *FIRST],
        cwd=tmp_path,
        env={**environment(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9/api"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert said.returncode == 75
    assert "the Prefect server at http://127.0.0.1:9/api does not answer" in said.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_ends_everything_and_is_no_traceback(name: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HEARING + COMMAND, *FIRST],
        cwd=tmp_path,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    children = _once_training(process)
    process.send_signal(signal.Signals[name])
    _, said = process.communicate(timeout=60)

    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("interloom: interrupted; run the same command again")
    assert "Traceback" not in said
    assert _are_gone(children)
    services = connect(Settings(home=tmp_path / "home"))
    (run,) = services.catalog.runs()
    stages = services.catalog.runs(parent_run_id=run.run_id)
    services.close()
    assert run.state is RunState.ABORTED
    assert [stage.state for stage in stages if stage.job == "train_tokenizer"] == [RunState.ABORTED]


def _once_training(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes below a run, once its first training stage has started."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("train_tokenizer"):
            break
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        children: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
        if any("interloom.stages" in " ".join(child.cmdline()) for child in children):
            return children
        time.sleep(0.1)
    raise AssertionError(json.dumps([child.cmdline() for child in children]))


def _are_gone(processes: list[psutil.Process]) -> bool:
    """Whether all end within some seconds."""
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
