"""Running a pipeline again when nothing changed, beside ``dvc repro`` of as many stages.

Sides in turns: the whole command ``interloom run smoke`` over results that are all there, and the
whole command ``dvc repro`` over as many stages with outputs of the same bytes. Also the parts of
ours alone: resolve, byte check and lineage of one pipeline, and the plan of 1,000 stages. The
results were made by a launcher that writes files of the given size and computes nothing.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from interloom.bootstrap import Services, connect
from interloom.config.recipe import Recipe
from interloom.config.settings import Settings
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.ports.launcher import StageJob
from interloom.stages.closure import steady_code
from interloom.stages.contract import execute_stage
from interloom.testing.hollow import HollowLauncher
from interloom_flows.pipeline import Inputs, Step, pretraining_steps
from interloom_flows.planning import resolve, stage_call
from interloom_flows.recipes import load_recipe
from interloom_flows.recording import pipeline_run, record_plan

TURNS = 3
OUTPUT_BYTES = 4 << 20
NUM_PLANNED = 1000
COMMAND = [sys.executable, "-c", "from interloom_flows.cli import main; main()"]
PEER = [sys.executable, "-m", "dvc"]


class Spent(NamedTuple):
    """Elapsed seconds, and seconds of processors."""

    wall_s: float
    cpu_s: float


class BulkyLauncher(HollowLauncher):
    """Writes outputs of a given size."""

    num_bytes = OUTPUT_BYTES

    def _artifact(self, job: StageJob, name: str) -> ArtifactRef:
        seed = int.from_bytes(f"{job.stage}.{name}".encode()[-8:], "big")
        with self._store.draft(ArtifactKind.TEXT_CORPUS) as draft:
            with draft.shard(f"{job.stage}.{name}.bin") as shard:
                noise = np.random.Generator(np.random.Philox(seed)).bytes(self.num_bytes)
                shard.path.write_bytes(noise)
            with draft.shard(f"{job.stage}.{name}.json") as shard:
                shard.path.write_text(job.request_json)
            return draft.commit(licences=("CC0-1.0",))


class Silent:
    """A listener that shows nothing."""

    def reused(self, stage: str) -> None:
        """Ignore it."""


def main() -> None:
    """Prepare both sides, time them in turns, print."""
    with tempfile.TemporaryDirectory(prefix="interloom-noop-") as name:
        folder = Path(name)
        recipe, steps = load_recipe("smoke", ()), pretraining_steps(load_recipe("smoke", ()))
        services = connect(Settings(home=folder / "home"))
        num_outputs = make_results(services, recipe, steps, OUTPUT_BYTES)
        prepare_peer(folder / "dvc", len(steps), num_outputs)
        ours, peers = [], []
        for _ in range(TURNS):
            ours.append(seconds(lambda: command(folder, [*COMMAND, "run", "smoke"])))
            peers.append(seconds(lambda: command(folder / "dvc", [*PEER, "repro"])))
        parts = [seconds(lambda: rerun(services, recipe, steps)) for _ in range(TURNS)]
        recipes = [recipe.model_copy(update={"seed": n}) for n in range(NUM_PLANNED // len(steps))]
        for one in recipes:
            make_results(services, one, steps, 100)
        plans = [seconds(lambda: plan_all(services, recipes, steps)) for _ in range(TURNS)]
        services.close()
    report(len(steps), ours, peers, parts, plans)


def report(
    num_stages: int,
    ours: list[Spent],
    peers: list[Spent],
    parts: list[Spent],
    plans: list[Spent],
) -> None:
    """The figures, and the line that a program reads."""
    size = f"{num_stages} stages, {OUTPUT_BYTES >> 20} MB an output"
    configs = [
        {
            "what": f"whole command, {size}, against dvc repro",
            "interloom": side(ours),
            "dvc repro": side(peers),
            "target_s": 15.0,
            "ratio": round(median_cpu_s(peers) / median_cpu_s(ours), 2),  # of processor seconds
        },
        {
            "what": f"resolve, byte check and lineage of {size}",
            "interloom": side(parts),
            "target_s": 3.0,
        },
        {"what": f"plan of {NUM_PLANNED} stages", "interloom": side(plans), "target_s": 1.0},
    ]
    for config in configs:
        print(config)
    figure = {
        "figure": "noop_rerun",
        "unit": "s",
        "configs": configs,
        "ratio": configs[0]["ratio"],
    }
    print(json.dumps(figure))


def median_cpu_s(times: Sequence[Spent]) -> float:
    """Processor seconds of a middling turn."""
    return statistics.median(spent.cpu_s for spent in times)


def side(times: Sequence[Spent]) -> dict[str, float]:
    """Median and spread of one side; elapsed, and of processors, which load does not stretch."""
    walls = [spent.wall_s for spent in times]
    return {
        "median": round(statistics.median(walls), 3),
        "min": round(min(walls), 3),
        "max": round(max(walls), 3),
        "cpu_s": round(statistics.median(spent.cpu_s for spent in times), 3),
    }


def make_results(services: Services, recipe: Recipe, steps: Sequence[Step], size: int) -> int:
    """A complete run of a recipe; gives the number of its outputs."""
    launcher = BulkyLauncher(services.store)
    launcher.num_bytes = size
    contract = replace(services.contract, launcher=launcher)
    inputs, num_outputs = Inputs(), 0
    with pipeline_run(contract, recipe) as run_id:
        for step in steps:
            outcome = execute_stage(contract, stage_call(recipe, step, inputs, run_id))
            num_outputs += len(outcome.result.outputs())
            inputs = inputs.with_result(step.stage, outcome.result)
    return num_outputs


def rerun(services: Services, recipe: Recipe, steps: Sequence[Step]) -> None:
    """What a run does when all is there: resolve, check bytes, record the lineage."""
    with steady_code():
        plan = resolve(services.contract, recipe, steps, {})
        assert not plan.to_run
        record_plan(services.contract, plan, Silent())  # type: ignore[arg-type]


def plan_all(services: Services, recipes: Sequence[Recipe], steps: Sequence[Step]) -> None:
    """Plan so many recipes that a thousand stages are looked at."""
    with steady_code():
        planned = [resolve(services.contract, recipe, steps, {}) for recipe in recipes]
    assert not any(plan.to_run for plan in planned)


def prepare_peer(folder: Path, num_stages: int, num_outputs: int) -> None:
    """A DVC pipeline with as many stages, in a chain, and outputs of the same bytes."""
    folder.mkdir()
    per_stage = -(-num_outputs // num_stages)
    (folder / "make.py").write_text(
        "import sys, pathlib, hashlib\n"
        f"size, n = {OUTPUT_BYTES}, int(sys.argv[1])\n"
        f"for i in range({per_stage}):\n"
        "    seed = hashlib.sha256(f'{n}/{i}'.encode()).digest()\n"
        "    pathlib.Path(f'out{n}_{i}').write_bytes(seed * (size // 32))\n"
    )
    stages = {}
    for number in range(num_stages):
        outs = [f"out{number}_{index}" for index in range(per_stage)]
        before = [f"out{number - 1}_{index}" for index in range(per_stage)] if number else []
        cmd = f"{sys.executable} make.py {number}"
        stages[f"stage{number}"] = {"cmd": cmd, "deps": ["make.py", *before], "outs": outs}
    (folder / "dvc.yaml").write_text(json.dumps({"stages": stages}))  # JSON is YAML
    command(folder, [*PEER, "init", "--no-scm", "-q"])
    command(folder, [*PEER, "repro", "-q"])


def command(folder: Path, words: Sequence[str]) -> None:
    """Run a command to its end; its output is of no interest unless it fails."""
    env = os.environ | {"INTERLOOM_HOME": str(folder / "home"), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed: {done.stderr}")


def seconds(task: Callable[[], None]) -> Spent:
    """What one call takes, its processes included."""
    cpu_s, wall_s = processor_seconds(), time.perf_counter()
    task()
    return Spent(time.perf_counter() - wall_s, processor_seconds() - cpu_s)


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


if __name__ == "__main__":
    main()
