"""The pretrain stage: learning, curves, exact resume, and two ranks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from interloom.adapters.deepspeed_engine import build_deepspeed_engine
from interloom.adapters.folder_store import FolderStore
from interloom.config.language_model import LanguageModelConfig, PretrainConfig
from interloom.config.training import TrainConfig
from interloom.core.artifacts import ArtifactKind
from interloom.core.errors import ConfigError, DataError
from interloom.language_model.model import Transformer, packed_mask
from interloom.language_model.runtime import load_language_model
from interloom.language_model.task import LanguageModelTask
from interloom.mixture.rows import load_rows
from interloom.ports.engine import EngineBuilder
from interloom.ports.workspace import Workspace
from interloom.stages.pretrain import PretrainRequest, PretrainResult, pretrain
from interloom.testing.engine import PlainEngine
from interloom.testing.rows import LAYOUT, counting_examples, store_counting_rows
from interloom.testing.store import MemoryStore
from interloom.training.loop import train

GOLDEN = Path(__file__).parents[1] / "golden" / "pretrain_losses.json"
MODEL = LanguageModelConfig(
    hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_size=32, init_std=0.1
)


def _config(rows_per_batch: int = 4, **train_changes: Any) -> PretrainConfig:
    settings = {"num_steps": 20, "learning_rate": 0.01, "log_every_steps": 1, "warmup_steps": 2}
    return PretrainConfig(
        model=MODEL,
        train=TrainConfig.model_validate(settings | train_changes),
        rows_per_batch=rows_per_batch,
    )


def _pretrain(
    store: MemoryStore,
    folder: Path,
    config: PretrainConfig,
    engine: EngineBuilder = PlainEngine,
) -> PretrainResult:
    folder.mkdir(exist_ok=True)
    request = PretrainRequest(rows=store_counting_rows(store, folder), config=config, seed=5)
    return pretrain(request, store=store, work=Workspace(folder), engine=engine)


def _computed(result: PretrainResult) -> PretrainResult:
    """Without what hangs on the clock."""
    kept = [metric for metric in result.metrics if not metric.name.startswith("telemetry/")]
    return result.model_copy(update={"metrics": tuple(kept)})


def _curve(result: PretrainResult, name: str = "train/loss") -> list[float]:
    return [point.value for point in result.metrics if point.name == name]


def test_twenty_steps_give_the_losses_they_always_gave(tmp_path: Path) -> None:
    losses = _curve(_pretrain(MemoryStore(), tmp_path, _config()))

    assert losses == pytest.approx(json.loads(GOLDEN.read_text()), abs=1e-6)


def test_the_model_learns_and_tells_it_by_modality_and_source(tmp_path: Path) -> None:
    result = _pretrain(MemoryStore(), tmp_path, _config(num_steps=60))

    for name in ("text", "speech", "source/text", "source/speech"):
        curve = _curve(result, f"train/loss/{name}")
        assert curve[-1] < 0.8 * curve[0], name
    assert result.metric("language_model/loss/text") == _curve(result, "train/loss/text")[-1]


def test_the_loss_on_held_out_rows_is_that_of_their_tokens(tmp_path: Path) -> None:
    store = MemoryStore()
    result = _pretrain(store, tmp_path, _config(num_steps=5))
    model = load_language_model(store, result.model)

    examples = [
        example
        for is_speech in (False, True)
        for example in counting_examples(10, is_speech=is_speech)
    ]
    scores = np.concatenate(model.log_likelihoods([example.ids_T for example in examples]))

    assert result.metric("language_model/heldout/loss") == pytest.approx(-scores.mean(), rel=1e-5)
    assert result.metric("language_model/heldout/loss/source/text") > 0


def test_the_stored_model_scores_what_it_learnt_above_noise(tmp_path: Path) -> None:
    store = MemoryStore()

    model = load_language_model(store, _pretrain(store, tmp_path, _config(num_steps=60)).model)
    counting, noise = np.arange(10, dtype=np.int32), np.array([3, 17, 4, 11, 0, 9], np.int32)
    good, bad = model.log_likelihoods([counting, noise])

    assert model.layout == LAYOUT
    assert good.mean() > bad.mean() + 0.5


@pytest.mark.parametrize("engine", [PlainEngine, build_deepspeed_engine], ids=["plain", "ds"])
def test_a_killed_pretraining_goes_on_as_if_never_stopped(
    engine: EngineBuilder, tmp_path: Path
) -> None:
    config = _config(num_steps=10, checkpoint_every_steps=4, log_every_steps=3)
    whole = _pretrain(MemoryStore(), tmp_path / "a", config, engine)

    def dying(module: nn.Module, train_config: TrainConfig) -> Any:
        built = engine(module, train_config)
        steps = iter(range(6))
        step = built.step

        def until_killed(learning_rate: float, *, is_skipped: bool = False) -> float:
            next(steps)
            return step(learning_rate, is_skipped=is_skipped)

        built.step = until_killed  # type: ignore[method-assign]
        return built

    with pytest.raises(StopIteration):
        _pretrain(MemoryStore(), tmp_path / "b", config, dying)
    assert (tmp_path / "b" / "checkpoints" / "step-00000004" / "manifest.json").is_file()
    resumed = _pretrain(MemoryStore(), tmp_path / "b", config, engine)

    assert _computed(resumed) == _computed(whole)


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_deepspeed_gives_the_losses_of_plain_torch(zero_stage: int, tmp_path: Path) -> None:
    plain = _pretrain(MemoryStore(), tmp_path / "a", _config(num_steps=6))

    config = _config(num_steps=6, zero_stage=zero_stage)
    ours = _pretrain(MemoryStore(), tmp_path / "b", config, build_deepspeed_engine)

    assert _curve(ours) == pytest.approx(_curve(plain), rel=1e-4)


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_bf16_learns_nearly_as_fp32_does(zero_stage: int, tmp_path: Path) -> None:
    plain = _pretrain(MemoryStore(), tmp_path / "a", _config(num_steps=12))

    config = _config(num_steps=12, zero_stage=zero_stage, precision="bf16")
    ours = _pretrain(MemoryStore(), tmp_path / "b", config, build_deepspeed_engine)

    assert _curve(ours) == pytest.approx(_curve(plain), rel=0.05)


def test_splitting_a_step_into_micro_batches_changes_no_loss(tmp_path: Path) -> None:
    whole = _pretrain(MemoryStore(), tmp_path / "a", _config(rows_per_batch=4, num_steps=6))

    config = _config(rows_per_batch=1, num_steps=6, gradient_accumulation=4)
    split = _pretrain(MemoryStore(), tmp_path / "b", config)

    assert _curve(split) == pytest.approx(_curve(whole), rel=1e-4)


def test_rows_longer_than_the_model_are_refused(tmp_path: Path) -> None:
    small = MODEL.model_copy(update={"max_length": 32})

    with pytest.raises(ConfigError, match="rows have 48 tokens, the model takes 32"):
        _pretrain(MemoryStore(), tmp_path, _config().model_copy(update={"model": small}))


def test_the_artifact_holds_weights_config_and_card(tmp_path: Path) -> None:
    store = MemoryStore()

    manifest = store.manifest(_pretrain(store, tmp_path, _config(num_steps=3)).model)

    assert [shard.path for shard in manifest.shards] == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert manifest.kind is ArtifactKind.LANGUAGE_MODEL
    assert manifest.facts["vocabulary"] == LAYOUT.digest
    assert manifest.count("parameters") == MODEL.num_parameters(LAYOUT.size)
    card = store.local_path(manifest.shard("README.md")).read_text()
    assert "Licences of the training data: CC0-1.0." in card


def test_weights_that_do_not_fit_their_config_are_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    manifest = store.manifest(_pretrain(store, tmp_path, _config(num_steps=3)).model)
    with store.draft(ArtifactKind.LANGUAGE_MODEL) as draft:
        for held in manifest.shards:
            text = store.local_path(held).read_bytes()
            with draft.shard(held.path) as shard:
                shard.path.write_bytes(text.replace(b'"ffn_size": 32', b'"ffn_size": 40'))
        damaged = draft.commit()

    with pytest.raises(DataError, match="do not fit its config"):
        load_language_model(store, damaged)


class _RecordingTask(LanguageModelTask):
    """Keeps the indices it was asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[int] = []

    def loss(self, module: nn.Module, index: int) -> Any:
        self.seen.append(index)
        return super().loss(module, index)


def test_a_resumed_run_asks_for_the_batches_that_are_left(tmp_path: Path) -> None:
    store = MemoryStore()
    rows = load_rows(store, store_counting_rows(store, tmp_path))

    def task() -> _RecordingTask:
        model = Transformer(MODEL, LAYOUT.size)
        model.initialise(torch.Generator().manual_seed(0))
        return _RecordingTask(model, rows, LAYOUT, rows_per_batch=2, batches_per_step=2, seed=1)

    config = _config(num_steps=4, gradient_accumulation=2, checkpoint_every_steps=2).train
    first, second = task(), task()
    train(first, config, engine=PlainEngine, work=Workspace(tmp_path), seed=1)
    train(second, config, engine=PlainEngine, work=Workspace(tmp_path), seed=1)

    assert first.seen == [0, 1, 2, 3, 4, 5, 6, 7]
    assert second.seen == [4, 5, 6, 7]


_RANK = """
import sys
from pathlib import Path
import torch
from interloom.adapters.deepspeed_engine import build_deepspeed_engine
from interloom.adapters.folder_store import FolderStore
from interloom.ports.workspace import Workspace
from interloom.stages.__main__ import leave
from interloom.stages.pretrain import PretrainRequest, pretrain

folder = Path(sys.argv[1])
torch.set_num_threads(1)
request = PretrainRequest.model_validate_json((folder / "request.json").read_bytes())
result = pretrain(
    request,
    store=FolderStore(folder / "store"),
    work=Workspace(folder),
    engine=build_deepspeed_engine,
)
rank = torch.distributed.get_rank()
(folder / f"result-{rank}.json").write_text(result.model_dump_json())
leave(0)
"""


def _run_ranks(folder: Path, num_ranks: int) -> None:
    """Run the request of a folder under torchrun."""
    (folder / "rank.py").write_text(_RANK)
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={num_ranks}", str(folder / "rank.py"), str(folder)),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 2])
def test_two_ranks_see_the_same_rows_and_give_the_same_losses(
    zero_stage: int, tmp_path: Path
) -> None:
    alone = _pretrain(MemoryStore(), tmp_path / "alone", _config(num_steps=8))
    store = FolderStore(tmp_path / "store")
    config = _config(
        rows_per_batch=2, num_steps=8, num_ranks=2, zero_stage=zero_stage, checkpoint_every_steps=5
    )
    request = PretrainRequest(rows=store_counting_rows(store, tmp_path), config=config, seed=5)
    (tmp_path / "request.json").write_text(request.model_dump_json())

    _run_ranks(tmp_path, 2)

    results = [
        PretrainResult.model_validate_json((tmp_path / f"result-{rank}.json").read_text())
        for rank in (0, 1)
    ]
    assert results[0] == results[1]
    assert _curve(results[0]) == pytest.approx(_curve(alone), rel=1e-4)
    assert load_language_model(store, results[0].model).layout == LAYOUT
    # what two ranks had saved at step 5, one goes on with
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]
    fewer = {"num_ranks": 1, "gradient_accumulation": 2}
    going_on = request.model_copy(
        update={
            "config": config.model_copy(update={"train": config.train.model_copy(update=fewer)})
        }
    )
    resumed = pretrain(
        going_on, store=store, work=Workspace(tmp_path), engine=build_deepspeed_engine
    )
    assert _curve(resumed)[:5] == _curve(results[0])[:5]
    assert _curve(resumed) == pytest.approx(_curve(alone), rel=1e-4)


def test_shares_of_tokens_and_gradient_are_told_and_sum_to_one(tmp_path: Path) -> None:
    result = _pretrain(MemoryStore(), tmp_path, _config(num_steps=6))

    for what in ("token_share", "gradient_share"):
        for groups in (("text", "speech", "marker"), ("source/text", "source/speech")):
            shares = [_curve(result, f"train/{what}/{group}")[-1] for group in groups]
            assert sum(shares) == pytest.approx(1)
            assert min(shares) > 0


def test_the_gradient_share_is_that_of_the_losses_alone(tmp_path: Path) -> None:
    rows = load_rows(store := MemoryStore(), store_counting_rows(store, tmp_path))
    model = Transformer(MODEL, LAYOUT.size)
    model.initialise(torch.Generator().manual_seed(0))
    task = LanguageModelTask(model, rows, LAYOUT, rows_per_batch=2, batches_per_step=1, seed=1)

    loss = task.loss(model, 0)
    loss.value.backward()  # type: ignore[no-untyped-call]
    sums = dict(loss.late_sums())

    batch = rows.batch(loss.rows)
    arrays = (batch.tokens_BL, batch.positions_BL, batch.segments_BL)
    tokens, positions, segments = (torch.from_numpy(held.astype(np.int64)) for held in arrays)
    hidden = model.hidden(tokens, positions, packed_mask(segments)).detach().requires_grad_()
    logits = hidden @ model.output_weight.detach().T
    is_target = torch.from_numpy(batch.is_target_BL)
    losses = nn.functional.cross_entropy(
        logits[is_target.roll(-1, 1)], tokens[is_target], reduction="sum"
    )
    losses.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    squares = hidden.grad.square().sum(2).roll(1, 1)
    is_speech = torch.from_numpy(LAYOUT.is_speech(batch.tokens_BL)) & is_target
    expected = squares[is_speech].sum() / squares[is_target].sum()
    share = sums["gradient_share/speech"] / sums["gradient_share/speech/weight"]
    assert share == pytest.approx(float(expected), rel=1e-4)


def _from(store: MemoryStore, folder: Path, base: PretrainResult, **model: int) -> PretrainResult:
    """Train for a step from the weights of another model."""
    folder.mkdir()
    config = _config(num_steps=3, learning_rate=1e-9, warmup_steps=0)
    shaped = config.model_copy(update={"model": MODEL.model_copy(update=model)})
    rows = store_counting_rows(store, folder)
    request = PretrainRequest(rows=rows, start=base.model, config=shaped, seed=6)
    return pretrain(request, store=store, work=Workspace(folder), engine=PlainEngine)


def test_training_starts_from_the_weights_it_is_given_and_from_the_first_row(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    base = _pretrain(store, tmp_path / "a", _config(num_steps=20))

    tuned = _from(store, tmp_path / "b", base)

    assert _curve(tuned)[0] < _curve(base)[0] - 0.1
    assert _curve(tuned)[0] == pytest.approx(_curve(base)[-1], abs=0.3)
    assert base.model in store.manifest(tuned.model).parents


def test_weights_of_another_shape_or_vocabulary_are_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    base = _pretrain(store, tmp_path / "a", _config(num_steps=3))

    with pytest.raises(DataError, match=r"do not fit pretrain\.model"):
        _from(store, tmp_path / "b", base, ffn_size=48)

    held = store.manifest(base.model)
    with store.draft(ArtifactKind.LANGUAGE_MODEL) as draft:
        for shard in held.shards:
            body = store.local_path(shard).read_bytes()
            with draft.shard(shard.path) as copy:
                copy.path.write_bytes(body.replace(LAYOUT.tokenizer.encode(), b"9" * 64))
        other = base.model_copy(update={"model": draft.commit()})
    with pytest.raises(DataError, match="vocabulary"):
        _from(store, tmp_path / "c", other)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns of itself
def test_a_compiled_model_learns_what_the_other_learns(tmp_path: Path) -> None:
    store = MemoryStore()
    plain = _config(num_steps=6)
    compiled = PretrainConfig.model_validate(plain.model_dump() | {"is_compiled": True})

    first = _pretrain(store, tmp_path / "a", plain, build_deepspeed_engine)
    second = _pretrain(store, tmp_path / "b", compiled, build_deepspeed_engine)

    assert _curve(second) == pytest.approx(_curve(first), rel=1e-4)
    weights = load_language_model(store, second.model).model.state_dict()
    expected = load_language_model(store, first.model).model.state_dict()
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in expected.items()
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns of itself
def test_a_machine_without_a_compiler_refuses_to_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()  # what other tests have compiled
    config = PretrainConfig(model=MODEL, is_compiled=True)

    with (
        inductor.patch({"cpp.cxx": (str(tmp_path / "g++"),), "force_disable_caches": True}),
        pytest.raises(ConfigError, match=r"nothing can be compiled here: .*C\+\+ compiler"),
    ):
        _pretrain(MemoryStore(), tmp_path / "work", config)


def test_what_cannot_be_compiled_is_refused() -> None:
    stage_3 = _config(zero_stage=3).model_dump() | {"is_compiled": True}

    with pytest.raises(ValueError, match=r"is_compiled goes with patches\.kind = 'off' and"):
        PretrainConfig.model_validate(stage_3)
