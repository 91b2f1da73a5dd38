"""Curves that TensorBoard's own reader understands."""

from pathlib import Path

import pytest

from interloom.adapters.tensorboard_export import write_events
from interloom.core.errors import MissingError
from interloom.ports.catalog import Metric


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points = [Metric("train/loss", 5.0 / step, step) for step in (1, 200, 40_000)]
    points += [Metric("telemetry/mfu", 0.25, 200), Metric("language_model/epochs", 3.0)]

    write_events(tmp_path, points, wall_s=1_700_000_000.0)

    read = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(read.Tags()["scalars"]) == ["telemetry/mfu", "train/loss"]
    found = [(event.step, event.value) for event in read.Scalars("train/loss")]
    assert found == [(1, 5.0), (200, pytest.approx(0.025)), (40_000, pytest.approx(0.000125))]
    assert read.Scalars("telemetry/mfu")[0].wall_time == 1_700_000_000.0


def test_the_same_points_give_the_same_bytes(tmp_path: Path) -> None:
    points = [Metric("train/loss", 1.5, 3)]

    first = write_events(tmp_path / "a", points, wall_s=1.0).read_bytes()

    assert write_events(tmp_path / "b", points, wall_s=1.0).read_bytes() == first


def test_a_run_without_curves_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no curves to export"):
        write_events(tmp_path / "out", [Metric("tokenizer/wer", 0.1)], wall_s=1.0)
    assert not (tmp_path / "out").exists()
