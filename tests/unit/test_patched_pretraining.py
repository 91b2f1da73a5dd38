"""Pre-training with latent speech patches is pre-training: learnt, stored, resumed, distributed."""

from itertools import count
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from interloom.adapters.deepspeed_engine import build_deepspeed_engine
from interloom.config.language_model import LanguageModelConfig, PretrainConfig
from interloom.config.patches import PatchConfig
from interloom.config.training import TrainConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.language_model.runtime import load_language_model
from interloom.mixture.packing import num_units
from interloom.mixture.rows import load_rows
from interloom.ports.engine import EngineBuilder, TrainEngine
from interloom.ports.workspace import Workspace
from interloom.stages.pretrain import PretrainRequest, PretrainResult, pretrain
from interloom.testing.engine import PlainEngine
from interloom.testing.rows import LAYOUT, store_counting_rows
from interloom.testing.store import MemoryStore

PATCHES = PatchConfig(
    kind="static", local_size=8, decoder_layers=1, local_heads=1, local_ffn_size=16
)


def run(
    store: MemoryStore,
    folder: Path,
    engine: EngineBuilder = PlainEngine,
    num_steps: int = 60,
    patches: PatchConfig = PATCHES,
    start: ArtifactRef | None = None,
) -> PretrainResult:
    config = PretrainConfig(
        model=LanguageModelConfig(
            hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_size=32, init_std=0.1
        ),
        patches=patches,
        train=TrainConfig(
            num_steps=num_steps,
            learning_rate=0.01,
            log_every_steps=1,
            warmup_steps=2,
            checkpoint_every_steps=5,
        ),
    )
    folder.mkdir(exist_ok=True)
    rows = store_counting_rows(store, folder, is_aligned=patches.uses_alignment)
    request = PretrainRequest(rows=rows, start=start, config=config, seed=5)
    return pretrain(request, store=store, work=Workspace(folder), engine=engine)


def curve(result: PretrainResult, name: str) -> list[float]:
    return [point.value for point in result.metrics if point.name == name]


def test_text_and_speech_are_learnt(tmp_path: Path) -> None:
    result = run(MemoryStore(), tmp_path / "work")

    for name in ("train/loss/text", "train/loss/speech"):
        losses = curve(result, name)
        assert losses[-1] < 0.8 * losses[0], name


def test_the_model_is_stored_with_its_patches_and_scores_above_noise(tmp_path: Path) -> None:
    store = MemoryStore()

    model = load_language_model(store, run(store, tmp_path / "work").model)
    counting, noise = np.arange(10, dtype=np.int32), np.array([3, 17, 4, 11, 0, 9], np.int32)
    good, bad = model.log_likelihoods([counting, noise])

    assert model.patches == PATCHES
    assert model.layout == LAYOUT
    assert good.mean() > bad.mean() + 0.5


def test_what_was_seen_is_counted_in_tokens_and_in_patches_without_padding(tmp_path: Path) -> None:
    store = MemoryStore()
    rows = store_counting_rows(store, tmp_path)
    held = load_rows(store, rows)
    config = PretrainConfig(
        model=LanguageModelConfig(
            hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_size=16
        ),
        patches=PATCHES,
        rows_per_batch=1,
        train=TrainConfig(
            num_steps=held.num_rows, learning_rate=0.01, warmup_steps=1, log_every_steps=7
        ),
    )

    result = pretrain(
        PretrainRequest(rows=rows, config=config),
        store=store,
        work=Workspace(tmp_path),
        engine=PlainEngine,
    )

    every = [held.tokens(row) for row in range(held.num_rows)]
    patches = [num_units(LAYOUT.is_speech(row), PATCHES.size) for row in every]
    assert held.num_rows % 7  # the last point is of fewer steps than the others
    assert result.metric("language_model/tokens_seen") == pytest.approx(sum(map(len, every)))
    assert result.metric("language_model/positions_seen") == pytest.approx(sum(patches))


def test_deepspeed_gives_the_losses_of_plain_torch(tmp_path: Path) -> None:
    plain = run(MemoryStore(), tmp_path / "a", num_steps=6)
    ours = run(MemoryStore(), tmp_path / "b", build_deepspeed_engine, num_steps=6)

    assert curve(ours, "train/loss") == pytest.approx(curve(plain, "train/loss"), abs=1e-5)


def test_the_same_request_gives_the_same_weights(tmp_path: Path) -> None:
    models = [run(MemoryStore(), tmp_path / name, num_steps=6).model for name in "ab"]

    assert models[0] == models[1]
    assert models[0].kind is ArtifactKind.LANGUAGE_MODEL


def test_a_curriculum_goes_on_bitwise_after_a_stop_in_another_phase(tmp_path: Path) -> None:
    curriculum = PATCHES.model_copy(update={"kind": "curriculum"})
    whole = run(MemoryStore(), tmp_path / "a", num_steps=12, patches=curriculum)

    def killed(module: nn.Module, config: TrainConfig) -> TrainEngine:
        """Ends in the second third: a checkpoint of step 5, mixed, is there; step 7 is static."""
        built = PlainEngine(module, config)
        take, taken = built.step, count(1)

        def until_killed(learning_rate: float, *, is_skipped: bool = False) -> float:
            if next(taken) == 7:
                raise KeyboardInterrupt
            return take(learning_rate, is_skipped=is_skipped)

        built.step = until_killed  # type: ignore[method-assign]
        return built

    with pytest.raises(KeyboardInterrupt):
        run(MemoryStore(), tmp_path / "b", killed, num_steps=12, patches=curriculum)
    resumed = run(MemoryStore(), tmp_path / "b", num_steps=12, patches=curriculum)

    aligned = curve(whole, "train/patches/aligned")
    assert resumed.model == whole.model
    assert curve(resumed, "train/patches/aligned") == aligned
    assert aligned[:4] == [1.0] * 4
    assert aligned[-4:] == [0.0] * 4


def test_a_model_of_words_speaks_in_static_patches(tmp_path: Path) -> None:
    store, words = MemoryStore(), PATCHES.model_copy(update={"kind": "aligned"})

    made = run(store, tmp_path / "work", num_steps=3, patches=words).model

    assert load_language_model(store, made).patches == PATCHES


def test_a_model_of_other_patches_is_no_start(tmp_path: Path) -> None:
    store = MemoryStore()
    made = run(store, tmp_path / "a", num_steps=3).model
    four, off, mixed = (
        PATCHES.model_copy(update=change)
        for change in ({"size": 4}, {"kind": "off"}, {"kind": "mixed"})
    )

    with pytest.raises(DataError, match="'static' and size 2, this is 'static' and 4"):
        run(store, tmp_path / "b", num_steps=3, patches=four, start=made)
    with pytest.raises(DataError, match="this is 'off' and 2; start from a model of the same"):
        run(store, tmp_path / "c", num_steps=3, patches=off, start=made)
    assert run(store, tmp_path / "d", num_steps=3, patches=mixed, start=made).model != made


def test_what_speech_costs_is_counted_apart(tmp_path: Path) -> None:
    result = run(MemoryStore(), tmp_path / "work", num_steps=6)

    shares = curve(result, "train/flop_share/speech")
    assert 0 < min(shares) <= max(shares) < 1
    assert all(1 < length <= 2 for length in curve(result, "train/patches/length"))
