"""``interloom sweep``: arms, what is shown of them, the plot; and a real one."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from pydantic import ValidationError

from interloom.core.errors import ConfigError, MissingError
from interloom.evaluation.learning import LearningPoint, learning_curve, value_at
from interloom.evaluation.numbers import Number
from interloom.ports.catalog import Metric
from interloom_flows.plotting import Series, SeriesPoint, svg_plot
from interloom_flows.recipes import load_recipe
from interloom_flows.seeds import over_seeds
from interloom_flows.sweeping import (
    ArmResult,
    grid_arms,
    is_apart,
    label_of,
    number_of,
    save_comparison,
    shown_names,
    with_equal_data,
)
from interloom_flows.sweeps import Sweep, load_sweep, sweep_names

COMMAND = [sys.executable, "-c", "from interloom_flows.cli import main; main()", "sweep"]


def test_a_grid_gives_every_pair() -> None:
    arms = grid_arms(["mixture.total_tokens=10,20", "seed=0, 1"])

    assert arms == (
        ("mixture.total_tokens=10", "seed=0"),
        ("mixture.total_tokens=10", "seed=1"),
        ("mixture.total_tokens=20", "seed=0"),
        ("mixture.total_tokens=20", "seed=1"),
    )


def test_a_value_of_a_grid_may_be_a_list() -> None:
    arms = grid_arms(['ingest.only_licences=["A", "B"],["C"], []'])

    assert arms == (
        ('ingest.only_licences=["A", "B"]',),
        ('ingest.only_licences=["C"]',),
        ("ingest.only_licences=[]",),
    )


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["seed"], "--grid needs key=a,b,c, got 'seed'"),
        (["seed="], "--grid needs key=a,b,c"),
        (["seed=0,1", "seed=2"], "names a key twice"),
        (["=1"], "needs section.key=value"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(grid: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grid_arms(grid)


@pytest.mark.parametrize("name", sweep_names())
def test_every_arm_of_every_committed_sweep_is_a_valid_recipe(name: str) -> None:
    sweep = load_sweep(name)

    recipes = [load_recipe(sweep.recipe, arm) for arm in sweep.arms]

    assert len({recipe.model_dump_json() for recipe in recipes}) == len(recipes)


def test_a_sweep_that_is_not_known_is_an_error() -> None:
    with pytest.raises(MissingError, match=r"no committed sweep 'transfr'.* did you mean transfer"):
        load_sweep("transfr")


def _arm(value: float, *, low: float | None = None, high: float | None = None) -> ArmResult:
    numbers = (
        Number("cloze/S->T/woven", value, low, high, 64),
        Number("same", 1.0),
        Number("loss", value),
    )
    return ArmResult((f"mixture.interleaved.budget.share={value}",), 1.0, numbers)


def test_what_has_an_interval_and_varies_is_shown() -> None:
    arms = [_arm(0.5, low=0.4, high=0.6), _arm(0.9, low=0.8, high=0.95)]

    assert shown_names(arms, ()) == ("cloze/S->T/woven",)
    assert shown_names(arms, ("lo", "cloze/S")) == ("cloze/S->T/woven", "loss")


def test_intervals_are_apart_only_if_they_share_nothing() -> None:
    low, high = _arm(0.5, low=0.4, high=0.6).numbers[0], _arm(0.9, low=0.6, high=0.95).numbers[0]

    assert not is_apart(low, high)
    assert is_apart(low, _arm(0.9, low=0.61, high=0.95).numbers[0])
    assert not is_apart(low, Number("loss", 5.0))
    assert not is_apart(None, low)


def test_an_arm_is_called_after_what_it_changes() -> None:
    assert label_of(("mixture.interleaved.budget.share=0.5", "seed=1")) == "budget.share=0.5 seed=1"
    assert label_of(()) == "as it is"


def test_the_plot_is_a_drawing_with_every_point_and_interval() -> None:
    points = (SeriesPoint(0, 0.5, 0.4, 0.6), SeriesPoint(1, 0.9))

    root = ET.fromstring(svg_plot([Series("S->T <woven>", points)], ["0 %", "100 %"]))  # noqa: S314 - our own

    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert names.count("circle") == 2 + 1  # and the legend's
    coloured = [e for e in root.iter() if e.get("stroke") == "#1f77b4"]
    assert len(coloured) == 1
    assert "S->T <woven>" in [element.text for element in root.iter()]


def test_the_table_has_a_line_an_arm_with_intervals_where_there_are_some(tmp_path: Path) -> None:
    arms = [
        replace(_arm(0.5, low=0.4, high=0.6), name="50 Hz"),
        replace(_arm(0.9), numbers=(Number("loss", 0.25),)),
    ]

    save_comparison(arms, ("cloze/S->T/woven",), ("loss",), tmp_path)

    assert (tmp_path / "table.md").read_text().splitlines() == [
        "| | cloze/S->T/woven | loss |",
        "| --- | --- | --- |",
        "| 50 Hz | 0.5 (0.4 to 0.6) | 0.5 |",
        "| budget.share=0.9 |  | 0.25 |",
    ]
    assert (tmp_path / "plot.svg").read_text().count("50 Hz") == 1


def _trained(name: str, steps: int, losses: list[float]) -> ArmResult:
    """Logged every ten steps; a step takes 100 tokens and 1,000 operations."""
    logged = range(10, steps + 1, 10)
    points = [
        Metric("train/loss/speech", loss, at) for at, loss in zip(logged, losses, strict=True)
    ]
    points += [Metric(f"train/{unit}", 50.0, at) for unit in ("tokens", "flops") for at in logged]
    points += [
        Metric("language_model/tokens_seen", 100.0 * steps),
        Metric("language_model/flops", 1000.0 * steps),
    ]
    curve = learning_curve(points, "train/loss/speech")
    return ArmResult((name,), None, (), name=name, curves={"train/loss/speech": curve})


def test_arms_are_compared_where_they_have_read_what_the_first_one_read() -> None:
    arms = (
        _trained("plain", 20, [5.0, 4.0]),
        _trained("static", 30, [5.0, 3.5, 3.0]),
        _trained("large", 10, [4.5]),
    )

    plain, static, large = with_equal_data(arms)

    assert arms[1].curves["train/loss/speech"][1] == LearningPoint(2000.0, 20_000.0, 3.5)
    assert number_of(plain, "equal_data/loss/speech") == Number("equal_data/loss/speech", 4.0)
    assert number_of(static, "equal_data/loss/speech") == Number("equal_data/loss/speech", 3.5)
    assert number_of(large, "equal_data/loss/speech") is None


def test_arms_that_differ_in_a_seed_are_shown_as_their_mean_over_trainings() -> None:
    def arm(kind: str, seed: int, value: float, error: str | None = None) -> ArmResult:
        changed = (f"pretrain.patches.kind={kind}", f"pretrain.seed_offset={seed}")
        numbers = (Number("loss", value), Number("not_measured", None))
        return ArmResult(changed, None, numbers, error, name=f"{kind} {seed}")

    arms = [arm("off", 0, 2.0), arm("static", 0, 1.0), arm("off", 1, 4.0), arm("off", 2, 6.0)]
    failed = [arm("mixed", 0, 1.0), arm("mixed", 1, 2.0, error="no memory")]

    (mean,) = over_seeds([*arms, *failed])

    assert mean.label == "off 0, mean of 3"
    half = 4.303 * 2.0 / 3**0.5  # Student's t of 2 degrees of freedom, deviation 2
    (loss,) = mean.numbers
    assert loss.value == 4.0
    assert loss.low == pytest.approx(4.0 - half, abs=1e-3)
    assert loss.high == pytest.approx(4.0 + half, abs=1e-3)


def test_a_curve_without_what_it_took_is_none() -> None:
    assert learning_curve([Metric("train/loss", 1.0, 5)], "train/loss") == ()
    assert value_at((), 5.0) is None


def test_each_curve_is_drawn_over_operations_and_stands_in_the_table(tmp_path: Path) -> None:
    arms = with_equal_data([_trained("plain", 20, [5.0, 4.0]), _trained("static", 20, [5.0, 3.0])])

    save_comparison(arms, (), (), tmp_path)

    root = ET.fromstring((tmp_path / "train-loss-speech.svg").read_text())  # noqa: S314 - our own
    lines = [e for e in root.iter() if e.tag.endswith("polyline")]
    assert [len(str(line.get("points")).split()) for line in lines] == [2, 2]
    assert (tmp_path / "table.md").read_text().splitlines()[-1] == "| static | 3 |"


def test_every_arm_needs_a_label_or_none_has_one() -> None:
    with pytest.raises(ValidationError, match="2 arms need as many labels, got 1"):
        Sweep(recipe="starter", arms=(("seed=0",), ("seed=1",)), labels=("one",))


def _environment(home: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(home), "INTERLOOM_HOME": str(home)}


def _sweep(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=_environment(home),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_sweep_goes_on_arm_by_arm_and_shows_what_is_there(tmp_path: Path) -> None:
    one = ("smoke", "--only", "ingest", "--grid", "ingest.text_vocab_size=300")
    two = (*one[:-1], f"{one[-1]},320")

    first = _sweep(tmp_path, *one)
    wider = _sweep(tmp_path, *two)
    again = _sweep(tmp_path, *two, "--show", "ingest")
    wrong = _sweep(tmp_path, *one[:-1], f"{one[-1]},9")

    assert first.returncode == 0, first.stderr
    assert "1 of 1 stages to run" in first.stderr
    assert "arm 1 of 2, ingest.text_vocab_size=300: reused" in wider.stderr
    assert "arm 2 of 2, ingest.text_vocab_size=320: done" in wider.stderr
    assert again.stderr.count("reused") == 2
    arms = json.loads((tmp_path / "sweeps" / "smoke" / "results.json").read_text())
    assert [arm["error"] for arm in arms] == [None, None]
    spent = [{one["name"]: one["value"] for one in arm["numbers"]} for arm in arms]
    assert all(one["usage/ingest/wall_s"] > 0 for one in spent)
    assert all(one["usage/ingest/cpu_s"] > 0 for one in spent)
    assert wrong.returncode == 64
    assert "text_vocab_size" in wrong.stderr


@pytest.mark.slow
def test_a_sweep_that_is_told_to_end_ends_its_arms(tmp_path: Path) -> None:
    log = tmp_path / "sweeps" / "smoke" / "arm-1.log"
    with subprocess.Popen(
        [*COMMAND, "smoke", "--only", "train_tokenizer", "--grid", "seed=0,1"],
        env=_environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    ) as sweep:
        try:
            while "train_tokenizer:" not in (log.read_text() if log.exists() else ""):
                assert sweep.poll() is None
                time.sleep(0.2)
            sweep.terminate()
            _, said = sweep.communicate(timeout=120)
        finally:
            sweep.kill()

    assert sweep.returncode == 130
    assert "arm 2" not in said
    assert "interrupted; run the same command again" in log.read_text()
