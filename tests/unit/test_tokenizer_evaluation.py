"""What is measured of a tokenizer, on the chain of tiny models."""

import json
from pathlib import Path

import numpy as np
import pytest

from interloom.config.evaluation import EvaluationConfig
from interloom.core.artifacts import ArtifactKind
from interloom.core.errors import DataError
from interloom.corpora.tables import UTTERANCES, read_table, write_table
from interloom.evaluation.measures import Judging
from interloom.evaluation.speech_tokens import at_speed, character_error_rate, with_noise
from interloom.ports.workspace import Workspace
from interloom.stages.evaluate_tokenizer import EvaluateTokenizerRequest, evaluate_tokenizer
from interloom.testing.store import MemoryStore
from interloom.testing.tiny_chain import build_tiny_chain

JUDGING = Judging(EvaluationConfig(num_resamples=20), 0)


def test_the_report_has_every_figure_and_is_the_same_again(tmp_path: Path) -> None:
    store = MemoryStore()
    chain = build_tiny_chain(store)
    request = EvaluateTokenizerRequest(
        speech=chain.speech, tokenizer=chain.tokenizer, config=JUDGING.config
    )

    result = evaluate_tokenizer(request, store=store, work=Workspace(tmp_path))

    names = {metric.name for metric in result.metrics}
    assert names >= {
        "tokenizer/wer",
        "tokenizer/wer/low",
        "tokenizer/cer",
        "tokenizer/speed_0.8/wer",
        "tokenizer/speed_1.25/wer",
        "tokenizer/noise_20db/wer",
        "tokenizer/noise_5db/wer",
        "tokenizer/codes_used",
        "tokenizer/perplexity",
        "tokenizer/repeated",
        "tokenizer/unseen_voices/wer/n",
    }
    rate = result.metric("tokenizer/bits_per_s")
    assert rate == pytest.approx(12.5 * np.log2(24))
    assert result.metric("tokenizer/entropy_bits_per_s") <= rate
    manifest = store.manifest(result.tokenizer_evaluation)
    body = json.loads(store.local_path(manifest.shard("report.json")).read_bytes())
    assert body["normaliser"].startswith("interloom-words-")
    assert evaluate_tokenizer(request, store=store, work=Workspace(tmp_path)) == result


def test_speech_without_held_out_texts_is_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    chain = build_tiny_chain(store)
    rows = [{**row, "text": ""} for row in read_table(store, chain.speech, "utterances")]
    with store.draft(ArtifactKind.SPEECH_CORPUS) as draft:
        write_table(draft, "utterances", UTTERANCES, iter(rows))
        silent = draft.commit(licences=("CC0-1.0",))
    request = EvaluateTokenizerRequest(speech=silent, tokenizer=chain.tokenizer)

    with pytest.raises(DataError, match="no held-out utterance with a text"):
        evaluate_tokenizer(request, store=store, work=Workspace(tmp_path))


@pytest.mark.parametrize(("speed", "num_samples"), [(0.8, 20_000), (1.25, 12_800)])
def test_faster_speech_is_shorter(speed: float, num_samples: int) -> None:
    assert len(at_speed(np.zeros(16_000, np.float32), speed)) == num_samples


@pytest.mark.parametrize("snr_db", [20, 5])
def test_noise_has_the_power_that_was_asked_for(snr_db: int) -> None:
    tone = np.sin(np.arange(160_000) / 10).astype(np.float32)

    noise = with_noise(tone, snr_db=snr_db, seed=1) - tone

    ratio_db = 10 * np.log10(np.square(tone).mean() / np.square(noise).mean())
    assert ratio_db == pytest.approx(snr_db, abs=0.1)


def test_characters_are_counted_without_white_space() -> None:
    rate = character_error_rate(["a cat"], ["ac at!"], JUDGING)

    assert (rate.value, rate.num_items) == (0.0, 1)
    assert character_error_rate(["abcd"], ["abxd"], JUDGING).value == 0.25
