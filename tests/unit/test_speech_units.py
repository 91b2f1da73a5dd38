"""Units of several speech codes: from what is said to what is scored and said again."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interloom.config.language_model import LanguageModelConfig, PretrainConfig
from interloom.config.training import TrainConfig
from interloom.core.errors import ConfigError, DataError
from interloom.evaluation.cloze import ClozeItem, ClozeMode, Passage, choices
from interloom.language_model.runtime import load_language_model
from interloom.language_model.sampling import Sampling
from interloom.mixture.rows import load_rows
from interloom.mixture.sources import interleaved_examples
from interloom.ports.workspace import Workspace
from interloom.stages.pretrain import PretrainRequest, pretrain
from interloom.testing.engine import PlainEngine
from interloom.testing.rows import store_counting_rows
from interloom.testing.store import MemoryStore
from interloom.vocabulary.layout import Marker, VocabularyLayout
from interloom.vocabulary.units import SpeechUnits
from interloom_flows.recipes import load_recipe

SAID = [np.array([1, 2, 3, 1, 2, 0, 1, 2], np.int32)] * 3 + [np.array([1, 2, 3], np.int32)]
PAIR = SpeechUnits.train(SAID, codebook_size=5, num_units=6)
COUNTED = [(start + np.arange(12)) % 16 for start in range(16)]
UNITS = SpeechUnits.train(COUNTED, codebook_size=16, num_units=24)
PLAIN = VocabularyLayout(20, 16, "1" * 64, "2" * 64)
LAYOUT = VocabularyLayout(20, 16, "1" * 64, "2" * 64, units=UNITS)


def test_codes_that_often_follow_each_other_are_one_unit() -> None:
    assert PAIR.merges == ((1, 2),)
    assert PAIR.units(SAID[0]).tolist() == [5, 3, 5, 0, 5]
    assert PAIR.codes(np.array([4, 5, 5])).tolist() == [4, 1, 2, 1, 2]
    assert PAIR.lengths.tolist() == [1, 1, 1, 1, 1, 2]


def test_the_same_speech_gives_the_same_units_and_no_more_than_are_seen_twice() -> None:
    again = SpeechUnits.train(COUNTED, codebook_size=16, num_units=24)
    once = SpeechUnits.train([np.arange(16)], codebook_size=16, num_units=40)

    assert again == UNITS
    assert UNITS.size == 24
    assert once.size == 16


@settings(deadline=None)
@given(st.lists(st.integers(0, 15), max_size=60))
def test_units_are_codes_again(said: list[int]) -> None:
    codes = np.array(said, np.int32)

    units = UNITS.units(codes)

    assert UNITS.codes(units).tolist() == said
    assert int(UNITS.lengths[units].sum()) == len(said)


def test_a_layout_with_units_survives_a_dictionary_and_is_another_vocabulary() -> None:
    again = VocabularyLayout.from_dict(LAYOUT.to_dict())

    assert again == LAYOUT
    assert again.digest == LAYOUT.digest != PLAIN.digest
    assert again.plain == PLAIN
    assert LAYOUT.size == PLAIN.size + 8
    with pytest.raises(DataError, match="rows x was made with vocabulary"):
        LAYOUT.require(PLAIN.digest, holder="rows x")


RUNS = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 15), max_size=9)), max_size=6)


@settings(deadline=None)
@given(RUNS)
def test_no_unit_holds_two_recordings(runs: list[tuple[bool, list[int]]]) -> None:
    parts = [
        PLAIN.wrap_audio(np.array(values, np.int32)) if is_speech else np.array(values, np.int32)
        for is_speech, values in runs
    ]
    row = {"id": "d", "ids": np.concatenate([np.zeros(0, np.int32), *parts]), "licence": "CC0-1.0"}

    (example,) = interleaved_examples([row], LAYOUT)

    expected = [
        LAYOUT.wrap_audio(np.array(values, np.int32)) if is_speech else np.array(values, np.int32)
        for is_speech, values in runs
    ]
    end = [LAYOUT.marker(Marker.DOCUMENT_END)]
    assert example.ids_T.tolist() == np.concatenate([*expected, end]).tolist()
    assert int(LAYOUT.num_plain(example.ids_T).sum()) == len(row["ids"]) + 1


def test_a_model_of_units_scores_and_speaks_codes(tmp_path: Path) -> None:
    store = MemoryStore()
    rows = store_counting_rows(store, tmp_path, layout=LAYOUT)
    config = PretrainConfig(
        model=LanguageModelConfig(
            hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_size=32, init_std=0.1
        ),
        train=TrainConfig(num_steps=12, learning_rate=0.01, log_every_steps=8, warmup_steps=2),
    )

    made = pretrain(
        PretrainRequest(rows=rows, config=config),
        store=store,
        work=Workspace(tmp_path),
        engine=PlainEngine,
    )
    model = load_language_model(store, made.model)
    prompt = LAYOUT.wrap_audio(np.arange(4))[:-1]
    stop = Sampling(max_new_tokens=5)
    (said,) = model.generate(
        [prompt], stop, allowed=lambda _: LAYOUT.is_speech(np.arange(LAYOUT.size))
    )
    passages = [Passage((1,), (tuple(range(first, first + 6)),)) for first in (0, 6, 9)]
    item = ClozeItem(passages[0], passages[1], (passages[2],))
    right = choices([item], ClozeMode.SPEECH_TO_SPEECH, model, model.layout)

    assert model.layout == LAYOUT
    assert store.manifest(made.model).facts["plain_vocabulary"] == PLAIN.digest
    assert len(model.layout.codes(said)) >= len(said) == 5
    assert int(model.layout.codes(said).max()) < 16
    assert right.keys() == {"sum", "mean_ending", "mean_all"}
    held = load_rows(store, rows)
    batch = held.batch(range(held.num_rows))
    filled = batch.tokens_BL[batch.tokens_BL != LAYOUT.marker(Marker.PAD)]
    assert LAYOUT.num_plain(filled).sum() > filled.size
    assert made.metric("language_model/tokens_seen") > made.metric("language_model/positions_seen")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["mixture.alignment=words"], "speech_units = 1000 goes with alignment = 'off'"),
        (["pretrain.patches.kind=static"], r"mixture\.speech_units is for the plain model"),
    ],
)
def test_units_go_with_the_plain_model_and_without_alignment(
    changes: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("starter", ["mixture.speech_units=1000", *changes])
