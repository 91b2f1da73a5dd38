"""The recordings of the world."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from queue import SimpleQueue

from interloom.audio.files import SAMPLE_RATE_HZ, encode_flac
from interloom.corpora.ordered import in_order
from interloom.corpora.world.documents import LICENCE, SOURCE, Row, World
from interloom.corpora.world.scripts import Script, scripts
from interloom.corpora.world.voices import Espeak
from interloom.ports.progress import Progress

_THREADS = 2
_AHEAD = 32


def utterances(world: World, seconds: int, progress: Progress) -> Iterator[Row]:
    """Speak until there are so many seconds, some of them held out.

    A short world may have none of those by then; then it goes on to the first. The rows do not
    depend on the number of threads.

    Raises:
        MissingError: espeak-ng is not installed.
    """
    limit, done = seconds * SAMPLE_RATE_HZ, 0
    is_any_heldout = False
    free: SimpleQueue[Espeak] = SimpleQueue()
    with ExitStack() as stack:
        for _ in range(_THREADS):
            free.put(stack.enter_context(closing(Espeak())))
        speak = partial(_speak, free)
        rows = in_order(speak, enumerate(scripts(world)), num_threads=_THREADS, ahead=_AHEAD)
        stack.enter_context(closing(rows))
        while done < limit or not is_any_heldout:
            row = next(rows)
            done += row["num_samples"]
            is_any_heldout |= row["split"] == "heldout"
            progress.update(min(done, limit) // SAMPLE_RATE_HZ, seconds, "seconds of speech")
            yield row


def _speak(free: SimpleQueue[Espeak], numbered: tuple[int, Script]) -> Row:
    """One row of ``utterances``, with a voice that is free."""
    index, script = numbered
    espeak = free.get()
    try:
        spoken = espeak.say(script.text, script.voice)
    finally:
        free.put(espeak)
    return {
        "id": f"starter-{index:06d}",
        "split": script.split,
        "speaker": script.speaker,
        "text": script.text,
        "audio": encode_flac(spoken.samples_S),
        "num_samples": len(spoken.samples_S),
        "words": [
            {"word": word.word, "start": word.start, "stop": word.stop} for word in spoken.words
        ],
        "source": SOURCE,
        "licence": LICENCE,
        "facts": list(script.facts),
    }
