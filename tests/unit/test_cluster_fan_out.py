"""The shards of a data stage, made side by side: limits, tries, restarts."""

import threading
from pathlib import Path

import kubernetes_validate
import pytest

from interloom.adapters.cluster.fan_out import run_parts
from interloom.adapters.cluster.manifests import Attempt, base_name, rank_job, selector_of
from interloom.config.cluster import FanOutProfile, load_cluster_profile
from interloom.core.errors import DataError, TransientError
from interloom.ports.launcher import JobReport, StageJob
from interloom.ports.progress import NoProgress, Progress
from interloom.ports.workspace import Part

ROOT = Path(__file__).parents[2]
REPORT = JobReport("{}", 0.0, 0.0, 0)


class Told:
    def __init__(self) -> None:
        self.told: list[tuple[int, int | None, str]] = []

    def update(self, done: int, total: int | None, note: str = "") -> None:
        self.told.append((done, total, note))


class Runs:
    """Runs parts as it is told, and remembers which ran and how many at once."""

    def __init__(self, **endings: list[Exception]) -> None:
        self.endings = endings
        self.ran: list[str] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, part: StageJob, progress: Progress, is_over: threading.Event) -> JobReport:
        name = f"p{part.part.index}" if part.part is not None else ""
        with self._lock:
            self.ran.append(name)
            self._now += 1
            self.most = max(self.most, self._now)
            ending = self.endings.get(name, [])
            error = ending.pop(0) if ending else None
        is_over.wait(0.02)
        with self._lock:
            self._now -= 1
        if error is not None:
            raise error
        part.folder.mkdir(parents=True, exist_ok=True)
        (part.folder / "result.json").write_text("{}")
        progress.update(0, None, "made")
        return REPORT


def job(folder: Path) -> StageJob:
    return StageJob("interleave", "{}", folder / ("7f" * 32), can_be_parted=True)


def run(folder: Path, runs: Runs, limits: FanOutProfile, told: Progress | None = None) -> None:
    is_stopped = threading.Event()
    run_parts(job(folder), limits, runs, progress=told or NoProgress(), is_stopped=is_stopped)


def test_every_part_runs_once_and_no_more_at_a_time_than_allowed(tmp_path: Path) -> None:
    runs, told = Runs(), Told()

    run(tmp_path, runs, FanOutProfile(parts=8, at_once=3), told)

    assert sorted(runs.ran) == [f"p{index}" for index in range(8)]
    assert 1 <= runs.most <= 3
    assert {total for _, total, _ in told.told} == {8}
    assert "part 3-of-8: made" in {note for _, _, note in told.told}


def test_a_part_that_fails_for_a_while_is_tried_again_alone(tmp_path: Path) -> None:
    runs = Runs(p1=[TransientError("the store is away"), TransientError("still")])

    run(tmp_path, runs, FanOutProfile(parts=3, at_once=3, retries=2))

    assert sorted(runs.ran) == ["p0", "p1", "p1", "p1", "p2"]


def test_a_part_that_fails_more_often_than_allowed_fails_the_stage(tmp_path: Path) -> None:
    runs = Runs(p0=[TransientError(f"try {number}") for number in range(3)])

    with pytest.raises(TransientError, match="try 1"):
        run(tmp_path, runs, FanOutProfile(parts=1, at_once=1, retries=1))


def test_a_part_that_refuses_its_data_ends_the_others(tmp_path: Path) -> None:
    runs = Runs(p0=[DataError("row 7 is bad")])

    with pytest.raises(DataError, match="row 7 is bad"):
        run(tmp_path, runs, FanOutProfile(parts=200, at_once=1))

    assert runs.ran.count("p0") == 1
    assert len(runs.ran) < 200


def test_a_flow_that_comes_back_runs_only_what_is_missing_in_the_same_parts(tmp_path: Path) -> None:
    first, second = Runs(p2=[DataError("stop here")]), Runs()
    with pytest.raises(DataError):
        run(tmp_path, first, FanOutProfile(parts=4, at_once=1))

    run(tmp_path, second, FanOutProfile(parts=9, at_once=1))

    assert sorted({*first.ran, *second.ran}) == ["p0", "p1", "p2", "p3"]
    assert second.ran == ["p2", "p3"]


def test_a_stage_that_is_stopped_ends_its_parts(tmp_path: Path) -> None:
    is_stopped, is_ended = threading.Event(), threading.Event()

    def wait(part: StageJob, _: Progress, is_over: threading.Event) -> JobReport:
        is_stopped.set()
        assert is_over.wait(30), part
        is_ended.set()
        raise KeyboardInterrupt

    limits = FanOutProfile(parts=2, at_once=1)
    with pytest.raises(KeyboardInterrupt):
        run_parts(job(tmp_path), limits, wait, progress=NoProgress(), is_stopped=is_stopped)
    assert is_ended.is_set()


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_job_of_a_part_is_valid_and_tells_the_stage_where_its_workspace_is(
    version: str,
) -> None:
    profile = load_cluster_profile(ROOT / "infra/base/cluster-profile.json")
    whole = StageJob("tokenize_speech", "{}", Path("/store/work") / ("7f" * 32))
    part = whole.parts(16)[11]

    body = rank_job(
        part,
        profile,
        attempt=Attempt(1, "m"),
        rank=0,
        program=("-m", "interloom.stages"),
        server=(1, 34),
    )

    kubernetes_validate.validate(body, version, strict=True)
    assert part.key == whole.key
    assert base_name(part, 1) == "tokenize-speech-7f7f7f7f7f-11-of-16-a1"
    assert len(body["metadata"]["name"]) <= 63
    command = body["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[-2:] == ["--part=11-of-16", f"--workspace={whole.folder}"]
    assert str(part.folder / "request.json") in command
    assert body["metadata"]["labels"]["interloom.dev/part"] == "11-of-16"
    assert selector_of(part).endswith(",interloom.dev/part=11-of-16")
    assert selector_of(whole).endswith(",!interloom.dev/part")


def test_the_profiles_fan_out_only_stages_that_can_and_into_pools_that_are_there() -> None:
    from interloom.stages.registry import load_stage

    for path in (ROOT / "infra").rglob("cluster-profile.json"):
        profile = load_cluster_profile(path)
        assert profile.fan_out
        for stage in profile.fan_out:
            assert load_stage(stage).shard_maker is not None
            profile.pool(stage)


def test_parts_share_all_shards_between_them() -> None:
    parts = [Part(index, 3) for index in range(3)]

    taken = [[shard for shard in range(10) if part.takes(shard)] for part in parts]

    assert taken == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert Part.parse(str(parts[1])) == parts[1]
    with pytest.raises(ValueError, match="got 3 of 3"):
        Part(3, 3)
