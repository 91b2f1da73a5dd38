"""The long fault run: a whole recipe, killed again and again, ends as if nothing had happened."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from interloom.bootstrap import connect
from interloom.config.settings import Settings
from interloom_flows.results import find_run, summarise

pytestmark = pytest.mark.nightly

COMMAND = [sys.executable, "-c", "from interloom_flows.cli import main; main()", "run"]
NUM_KILLS = 3


def artifacts(home: Path) -> Mapping[str, str]:
    services = connect(Settings(home=home))
    summary = summarise(services.catalog, find_run(services.catalog, "last"))
    services.close()
    return {name: ref.id for name, ref in summary.outputs.items()}


def begin(home: Path, recipe: str) -> subprocess.Popen[bytes]:
    home.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [*COMMAND, recipe],
        cwd=home,
        env={**os.environ, "INTERLOOM_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(("recipe", "longest_s"), [("smoke", 40), ("starter", 240)])
def test_a_recipe_killed_at_random_moments_ends_with_the_artifacts_of_an_undisturbed_run(
    recipe: str, longest_s: int, tmp_path: Path
) -> None:
    moments = np.random.default_rng(20261120).uniform(5, longest_s, NUM_KILLS)
    for moment_s in moments:
        process = begin(tmp_path / "killed", recipe)
        try:
            process.wait(float(moment_s))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    assert begin(tmp_path / "killed", recipe).wait() == 0
    assert begin(tmp_path / "undisturbed", recipe).wait() == 0
    assert artifacts(tmp_path / "killed") == artifacts(tmp_path / "undisturbed")
