"""Planning and reuse must be quick, so describing a stage loads nothing that computes."""

import subprocess
import sys

import pytest

from interloom.stages.registry import STAGES

HEAVY = {"torch", "prefect", "deepspeed", "great_expectations", "streamlit", "transformers"}
MODULES = [
    *sorted(STAGES.values()),
    "interloom.config.recipe",
    "interloom.stages.contract",
    "interloom_flows.pipeline",
    "interloom_flows.planning",
    "interloom_flows.cli",
]


@pytest.mark.parametrize("module", MODULES)
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert loaded.stdout.strip() == "[]"
