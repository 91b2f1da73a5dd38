"""Pre-training with latent speech patches is pre-training: learnt, stored, resumed, distributed."""

from pathlib import Path

import numpy as np
import pytest

from interloom.adapters.deepspeed_engine import build_deepspeed_engine
from interloom.config.language_model import LanguageModelConfig, PretrainConfig
from interloom.config.patches import PatchConfig
from interloom.config.training import TrainConfig
from interloom.core.artifacts import ArtifactKind
from interloom.language_model.runtime import load_language_model
from interloom.ports.engine import EngineBuilder
from interloom.ports.workspace import Workspace
from interloom.stages.pretrain import PretrainRequest, PretrainResult, pretrain
from interloom.testing.engine import PlainEngine
from interloom.testing.rows import LAYOUT, store_counting_rows
from interloom.testing.store import MemoryStore

PATCHES = PatchConfig(
    kind="static", local_size=8, decoder_layers=1, local_heads=1, local_ffn_size=16
)


def run(
    store: MemoryStore, folder: Path, engine: EngineBuilder = PlainEngine, num_steps: int = 60
) -> PretrainResult:
    config = PretrainConfig(
        model=LanguageModelConfig(
            hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_size=32, init_std=0.1
        ),
        patches=PATCHES,
        train=TrainConfig(
            num_steps=num_steps, learning_rate=0.01, log_every_steps=1, warmup_steps=2
        ),
    )
    folder.mkdir()
    request = PretrainRequest(rows=store_counting_rows(store, folder), config=config, seed=5)
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


def test_deepspeed_gives_the_losses_of_plain_torch(tmp_path: Path) -> None:
    plain = run(MemoryStore(), tmp_path / "a", num_steps=6)
    ours = run(MemoryStore(), tmp_path / "b", build_deepspeed_engine, num_steps=6)

    assert curve(ours, "train/loss") == pytest.approx(curve(plain, "train/loss"), abs=1e-5)


def test_the_same_request_gives_the_same_weights(tmp_path: Path) -> None:
    models = [run(MemoryStore(), tmp_path / name, num_steps=6).model for name in "ab"]

    assert models[0] == models[1]
    assert models[0].kind is ArtifactKind.LANGUAGE_MODEL
