"""What espeak-ng says: the same in any order, thread and process."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from interloom.audio.files import SAMPLE_RATE_HZ, read_audio
from interloom.config.corpora import StarterWorld
from interloom.core.errors import DataError
from interloom.corpora.world.build import build_world
from interloom.corpora.world.lexicon import words_of
from interloom.corpora.world.speech import utterances
from interloom.corpora.world.voices import Espeak, Voice, place_words
from interloom.ports.progress import NoProgress

VOICE = Voice("gmw/en-US+f2", 160, 50)

SPEAK = """
import hashlib, json, sys
from contextlib import closing
from interloom.corpora.world.voices import Espeak, Voice
with closing(Espeak()) as espeak:
    digests = {}
    for text, voice in json.loads(sys.argv[1]):
        samples = espeak.say(text, Voice(*voice)).samples_S
        digests[text + voice[0]] = hashlib.sha256(samples.tobytes()).hexdigest()
print(json.dumps(digests, sort_keys=True))
"""


@pytest.fixture
def espeak() -> Iterator[Espeak]:
    speaker = Espeak()
    yield speaker
    speaker.close()


def test_the_same_samples_come_in_any_order_and_process() -> None:
    texts = ["tom has a red fox at home.", "where does lucy live?", "it is night."]
    voices = [["gmw/en-US", 150, 42], ["gmw/en+f4", 170, 54]]
    jobs = [(text, voice) for text in texts for voice in voices]

    first, second = (
        subprocess.run(
            [sys.executable, "-c", SPEAK, json.dumps(order)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for order in (jobs, [*reversed(jobs), *jobs])
    )

    assert first == second
    assert len(set(json.loads(first).values())) == len(jobs)


def test_each_word_has_its_place(espeak: Espeak) -> None:
    text = "a mouse comes to lucy. it wants to eat. what is it? a cat."

    spoken = espeak.say(text, VOICE)

    assert [word.word for word in spoken.words] == words_of(text)
    edges = [edge for word in spoken.words for edge in (word.start, word.stop)]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= len(spoken.samples_S)
    assert all(word.stop - word.start >= 320 for word in spoken.words)


def test_speakers_rest_between_sentences_and_at_both_ends(espeak: Espeak) -> None:
    spoken = espeak.say("the cat is gold. the bag is green.", VOICE)

    gaps = [
        after.start - before.stop
        for before, after in zip(spoken.words, spoken.words[1:], strict=False)
    ]
    assert max(gaps) == gaps[3]
    assert gaps[3] > 0.1 * SAMPLE_RATE_HZ
    assert not spoken.samples_S[:1600].any()
    assert not spoken.samples_S[-1600:].any()


def test_words_that_run_together_share_their_stretch() -> None:
    samples = np.full(1000, 0.5, np.float32)

    words = place_words("ab abcd end", {1: 100, 9: 700}, samples)

    assert [(word.word, word.start, word.stop) for word in words] == [
        ("ab", 100, 300),
        ("abcd", 300, 700),
        ("end", 700, 1000),
    ]


def test_a_word_ends_where_it_falls_silent() -> None:
    samples = np.concatenate([np.full(400, 0.5), np.zeros(600)]).astype(np.float32)

    words = place_words("tom, so", {1: 0, 6: 800}, samples)

    assert [(word.start, word.stop) for word in words] == [(0, 400), (800, 1000)]


def test_an_unknown_voice_is_named(espeak: Espeak) -> None:
    with pytest.raises(DataError, match="has no voice 'no-such-voice'"):
        espeak.say("tom sings.", Voice("no-such-voice", 160, 50))


def test_a_text_without_words_is_refused(espeak: Espeak) -> None:
    with pytest.raises(DataError, match="says nothing for ''"):
        espeak.say("", VOICE)


def test_utterances_hold_what_their_rows_say() -> None:
    world = build_world(StarterWorld(num_story_cloze=10), seed=0, heldout_share=0.4)

    rows = list(utterances(world, 20, NoProgress()))
    again = list(utterances(world, 10, NoProgress()))

    assert sum(row["num_samples"] for row in rows) >= 20 * SAMPLE_RATE_HZ
    assert sum(row["num_samples"] for row in rows[:-1]) < 20 * SAMPLE_RATE_HZ
    assert rows[: len(again)] == again
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert len(read_audio(row["audio"])) == row["num_samples"]
        assert [word["word"] for word in row["words"]] == words_of(row["text"])
    digests = {hashlib.sha256(row["audio"]).hexdigest() for row in rows}
    assert len(digests) == len(rows)


@pytest.mark.parametrize("seed", [4, 9])  # whose first lines are all for training
def test_a_short_world_goes_on_to_the_first_utterance_that_is_held_out(seed: int) -> None:
    source = StarterWorld(num_story_cloze=8, num_people=24, num_relations=4)
    world = build_world(source, seed=seed, heldout_share=0.08)

    rows = list(utterances(world, 5, NoProgress()))

    assert sum(row["num_samples"] for row in rows) > 5 * SAMPLE_RATE_HZ
    assert [row["split"] for row in rows].count("heldout") == 1
    assert rows[-1]["split"] == "heldout"
