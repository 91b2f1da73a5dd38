"""Ranks that die, hang or are told to end, in real processes under the real launcher."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from interloom.adapters.folder_store import FolderStore
from interloom.adapters.local_launcher import LocalLauncher
from interloom.config.language_model import LanguageModelConfig, PretrainConfig
from interloom.config.training import TrainConfig
from interloom.core.errors import PreemptedError, TransientError
from interloom.ports.launcher import StageJob
from interloom.ports.progress import NoProgress
from interloom.stages.pretrain import PretrainRequest, PretrainResult
from interloom.testing.rows import store_counting_rows
from interloom.training.checkpoint import sealed_steps
from interloom.training.watch import Standing, read_standing

pytestmark = pytest.mark.slow

MODEL = LanguageModelConfig(
    hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_size=32, init_std=0.1
)


def _job(folder: Path, num_ranks: int, num_steps: int) -> StageJob:
    config = TrainConfig(
        num_steps=num_steps,
        learning_rate=1e-3,
        num_ranks=num_ranks,
        threads_per_rank=1,
        log_every_steps=10,
        checkpoint_every_steps=1_000_000,
    )
    folder.mkdir(exist_ok=True)
    rows = store_counting_rows(FolderStore(folder / "store"), folder)
    request = PretrainRequest(rows=rows, config=PretrainConfig(model=MODEL, train=config))
    return StageJob("pretrain", request.model_dump_json(), folder / "work", num_ranks, 1)


def _when_training(job: StageJob, rank: int, act: Callable[[Standing], None]) -> threading.Thread:
    """Do something to a rank once it is well under way."""

    def wait() -> None:
        path = job.folder / "ranks"
        while (seen := read_standing(path, rank)) is None or seen.step < 20:
            time.sleep(0.02)
        act(seen)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def _launcher(folder: Path) -> LocalLauncher:
    return LocalLauncher(store_root=folder / "store", device="cpu")


def test_a_rank_that_is_killed_is_named_kill(tmp_path: Path) -> None:
    job = _job(tmp_path, num_ranks=2, num_steps=100_000)
    _when_training(job, 1, lambda seen: os.kill(seen.process, signal.SIGKILL))

    with pytest.raises(TransientError, match=r"rank 1 \(process \d+\), last at step .* is gone"):
        _launcher(tmp_path).run(job, progress=NoProgress())


def test_a_rank_that_hangs_is_named_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOOM_RANK_PATIENCE_S", "6")
    job = _job(tmp_path, num_ranks=2, num_steps=100_000)

    def freeze(seen: Standing) -> None:
        os.kill(seen.process, signal.SIGSTOP)
        while not (job.folder / "error.json").exists():
            time.sleep(0.1)
        os.kill(seen.process, signal.SIGKILL)  # torchrun would wait for half a minute

    _when_training(job, 1, freeze)

    with pytest.raises(TransientError, match=r"no progress for 6 s: rank 1 .* hangs, frozen, and"):
        _launcher(tmp_path).run(job, progress=NoProgress())


@pytest.mark.parametrize("told", [0, 1])
def test_when_one_rank_is_told_to_end_all_save_together_and_go_on_bit_for_bit_fault(
    told: int, tmp_path: Path
) -> None:
    num_ranks = told + 1  # alone, or the second of two
    whole, ended = (_job(tmp_path / name, num_ranks, num_steps=150) for name in ("a", "b"))
    undisturbed = _launcher(tmp_path / "a").run(whole, progress=NoProgress())
    _when_training(ended, told, lambda seen: os.kill(seen.process, signal.SIGTERM))

    with pytest.raises(PreemptedError, match=r"told to end; saved at step \d+ of 150: run again"):
        _launcher(tmp_path / "b").run(ended, progress=NoProgress())
    saved = sealed_steps(ended.folder / "checkpoints")
    resumed = _launcher(tmp_path / "b").run(ended, progress=NoProgress())

    assert len(saved) == 1
    first, second = (
        PretrainResult.model_validate_json(report.result_json) for report in (undisturbed, resumed)
    )
    assert first.model == second.model


def test_a_rank_that_is_killed_before_anybody_can_tell_is_named_kill(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, signal, time\n"
        "if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(60)\n"
    )
    launcher = LocalLauncher(store_root=tmp_path, device="cpu", program=(str(script),))
    job = StageJob("pretrain", "{}", tmp_path / "work", num_ranks=2, threads_per_rank=1)

    with pytest.raises(TransientError, match="rank 1 was ended by SIGKILL, and with it the others"):
        launcher.run(job, progress=NoProgress())
