"""All complete runs of one recipe side by side: what they changed, and what came of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from interloom.evaluation.learning import LearningPoint, learning_curve
from interloom.evaluation.numbers import Number, fold_intervals
from interloom.ports.catalog import Catalog, RunRecord, RunState

_SEARCHED = 500
_CURVES = ("train/loss/speech", "train/loss/text")
_TABLE_1 = ("tokenizer/wer", "tokenizer/cer", "tokenizer/unseen_voices/wer")  # P1, by frame rate


@dataclass(frozen=True, slots=True)
class Arm:
    """One run.

    Attributes:
        run_id: Which.
        changed: Its values of the keys in which the runs differ.
        numbers: Each result that has a value, by name.
        curves: The loss on speech and on text over what its training took, by name.
    """

    run_id: str
    changed: Mapping[str, str]
    numbers: Mapping[str, Number]
    curves: Mapping[str, tuple[LearningPoint, ...]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its changes, in short."""
        return (
            " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.changed.items())
            or self.run_id[:8]
        )


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """The runs of a recipe, oldest first; of runs of the same values the newest alone."""

    recipe: str
    keys: tuple[str, ...]
    arms: tuple[Arm, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The results that have an interval in some run, sorted."""
        return tuple(
            sorted(
                {
                    name
                    for arm in self.arms
                    for name, number in arm.numbers.items()
                    if number.low is not None
                }
            )
        )

    @property
    def first_names(self) -> tuple[str, ...]:
        """What to show at first, of the results that every run has.

        Transfer by interleaving where all were trained so far, else what is lost in codes.
        """
        common = [name for name in self.names if all(name in arm.numbers for arm in self.arms)]
        woven = [name for name in common if name.startswith("cloze/") and name.endswith("woven")]
        lost = [name for name in _TABLE_1 if name in common]
        return tuple(woven or lost or common[:4])


def recipes(catalog: Catalog) -> tuple[str, ...]:
    """The recipes that have more than one complete run, sorted."""
    names = [run.recipe for run in _complete(catalog)]
    return tuple(sorted({name for name in names if names.count(name) > 1}))


def view(catalog: Catalog, recipe: str) -> ComparisonView:
    """The complete runs of a recipe and the keys in which they differ."""
    runs = [run for run in reversed(_complete(catalog)) if run.recipe == recipe]
    values = {run.run_id: dict(_flat(json.loads(run.request_json))) for run in runs}
    every = sorted({key for held in values.values() for key in held})
    keys = [key for key in every if len({held.get(key) for held in values.values()}) > 1]
    newest = {tuple(values[run.run_id].get(key) for key in keys): run for run in runs}
    arms = [
        Arm(
            run.run_id,
            {key: values[run.run_id].get(key, "") for key in keys},
            _numbers(catalog, run.run_id),
            _curves(catalog, run.run_id),
        )
        for run in newest.values()
    ]
    return ComparisonView(recipe, tuple(keys), tuple(arms))


def draw(shown: ComparisonView, names: Sequence[str]) -> None:
    """Put a table and a chart of the chosen results on the page."""
    st.dataframe(list(table(shown, names)), hide_index=True)
    st.vega_lite_chart(list(points(shown, names)), chart(), width="stretch")
    if learnt := list(lines(shown)):
        st.subheader("Loss over operations, and over tokens")
        for taken in ("operations", "tokens"):
            st.vega_lite_chart(learnt, line_chart(taken), width="stretch")


def table(shown: ComparisonView, names: Sequence[str]) -> Iterator[dict[str, object]]:
    """One line a run: what it changed, and each result with its interval."""
    for arm in shown.arms:
        held = {name: _cell(arm.numbers[name]) for name in names if name in arm.numbers}
        yield {**arm.changed, **held}


def _cell(number: Number) -> str:
    has_bounds = number.low is not None and number.high is not None
    bounds = f" ({number.low:.3f} to {number.high:.3f})" if has_bounds else ""
    return f"{number.value:.3f}{bounds}"


def points(shown: ComparisonView, names: Sequence[str]) -> Iterator[dict[str, object]]:
    """One point a run and result, for the chart."""
    for arm in shown.arms:
        for name in names:
            if (number := arm.numbers.get(name)) is not None:
                yield {
                    "run": arm.label,
                    "result": name,
                    "value": number.value,
                    "low": number.low,
                    "high": number.high,
                }


def lines(shown: ComparisonView) -> Iterator[dict[str, object]]:
    """One row a run, curve and point, for the charts."""
    for arm in shown.arms:
        for name, curve in arm.curves.items():
            for one in curve:
                yield {
                    "run": arm.label,
                    "curve": name,
                    "operations": one.flops,
                    "tokens": one.tokens,
                    "loss": one.value,
                }


def line_chart(taken: str) -> dict[str, Any]:
    """The loss of each run over what it had taken, in Vega-Lite."""
    logarithmic = {"type": "quantitative", "scale": {"type": "log"}}
    return {
        "mark": "line",
        "encoding": {
            "x": {"field": taken, **logarithmic},
            "y": {"field": "loss", "type": "quantitative", "scale": {"zero": False}},
            "color": {"field": "run", "type": "nominal"},
            "strokeDash": {"field": "curve", "type": "nominal"},
        },
    }


def chart() -> dict[str, Any]:
    """Points with their intervals, side by side for each run, in Vega-Lite."""
    encoding = {
        "x": {"field": "run", "type": "nominal", "sort": None, "title": None},
        "xOffset": {"field": "result"},
        "color": {"field": "result", "type": "nominal"},
    }
    axis = {"scale": {"zero": False}, "title": None}
    return {
        "layer": [
            {
                "mark": {"type": "rule"},
                "encoding": encoding
                | {"y": {"field": "low", "type": "quantitative", **axis}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True},
                "encoding": encoding | {"y": {"field": "value", "type": "quantitative", **axis}},
            },
        ]
    }


def _complete(catalog: Catalog) -> list[RunRecord]:
    """Complete pipelines, newest first."""
    return [run for run in catalog.runs(limit=_SEARCHED) if run.state is RunState.COMPLETE]


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a recipe by its dotted key, as text."""
    for key, value in values.items():
        path = f"{above}.{key}" if above else key
        if isinstance(value, dict):
            yield from _flat(value, path)
        else:
            yield path, json.dumps(value)


def _curves(catalog: Catalog, run_id: str) -> dict[str, tuple[LearningPoint, ...]]:
    """How the language model of a run learnt."""
    trained = [one for one in catalog.runs(parent_run_id=run_id) if one.job == "pretrain"]
    points = [metric for one in trained for metric in catalog.metrics(one.run_id)]
    return {name: curve for name in _CURVES if (curve := learning_curve(points, name))}


def _numbers(catalog: Catalog, run_id: str) -> dict[str, Number]:
    """The results of all stages of a run that have a value, by name."""
    values = {
        metric.name: metric.value
        for stage in catalog.runs(parent_run_id=run_id)
        for metric in catalog.results(stage.run_id)
    }
    return {one.name: one for one in fold_intervals(values) if one.value is not None}
