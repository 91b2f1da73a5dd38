"""What is said in the recordings of the world, by whom and how fast."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, cycle

from interloom.corpora.world.dialogues import ask_rule
from interloom.corpora.world.documents import World
from interloom.corpora.world.draws import Draws
from interloom.corpora.world.facts import Fact, Guard, other_answer
from interloom.corpora.world.lexicon import COLOURS, PEOPLE, SIZES, TASTES, words_of
from interloom.corpora.world.stories import describe, draw_cast, tell
from interloom.corpora.world.voices import Voice

SPEAKERS = {
    "starter-anna": ("gmw/en-US+f2", 52),
    "starter-bill": ("gmw/en-US", 42),
    "starter-cleo": ("gmw/en+f4", 48),
    "starter-dean": ("gmw/en-US+m3", 40),
}
UNSEEN_SPEAKERS = {
    "starter-emil": ("gmw/en-US+m1", 44),
    "starter-faye": ("gmw/en-US+f1", 50),
    "starter-gale": ("gmw/en+f3", 46),
    "starter-hank": ("gmw/en-US+m7", 42),
}
RATES = (150, 160, 170)
PITCH_STEPS = (-6, 0, 6)
_LINES, _FACT_LINES = 20, 7  # of so many lines, so many state a fact
_CANDIDATES = 4
DESCRIBING = (*COLOURS, *SIZES, *TASTES)


@dataclass(frozen=True, slots=True)
class Script:
    """One utterance before it is spoken."""

    split: str
    speaker: str
    voice: Voice
    text: str
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Line:
    """Sentences, and the split of the last of them that tells something."""

    sentences: tuple[str, ...]
    split: str
    facts: tuple[str, ...] = ()


def scripts(world: World) -> Iterator[Script]:
    """Utterances without end, a function of the world alone.

    Facts take turns. Everything else is the best of a few drawn lines: the one with the word that
    was said least so far, so that no word stays rare. No sentence of a held-out utterance is in one
    for training, whatever the voice, unless it is a stock sentence such as ``it is night.``, and no
    whole story of the cloze pairs is told.
    """
    guard = world.guard("spoken")
    kept = {(*story.context, story.right) for story in world.cloze}
    turns = cycle(world.facts_of("spoken"))
    said: Counter[str] = Counter()
    for index in count():
        draws = Draws(world.seed, "script", index)
        if draws.below(_LINES) < _FACT_LINES:
            fact = next(turns)
            lines = [_fact_line(world, fact, draws) for _ in range(_CANDIDATES)]
        else:
            lines = [_accepted_line(world, draws, guard, kept) for _ in range(_CANDIDATES)]
        script = _script(world, index, min(lines, key=lambda line: _rarest(line, said)))
        if script.split == "train":
            said.update(words_of(script.text))
        yield script


def is_stock(sentence: str) -> bool:
    """Whether a sentence names nobody and describes nothing: it stands in many lines as it is."""
    return not {*PEOPLE, *DESCRIBING} & set(words_of(sentence))


def _rarest(line: _Line, said: Mapping[str, int]) -> int:
    """How often the rarest word of the line was said."""
    return min(said.get(word, 0) for word in words_of(" ".join(line.sentences)))


def _script(world: World, index: int, line: _Line) -> Script:
    """Choose the voice; of sentences that differ in split, keep those of the line's."""
    draws = Draws(world.seed, "voice", index)
    is_open = world.has_unseen_voices and line.split == "heldout"
    voices = SPEAKERS | UNSEEN_SPEAKERS if is_open else SPEAKERS
    speaker = draws.pick(list(voices))
    name, pitch = voices[speaker]
    before = [
        sentence
        for sentence in line.sentences[:-1]
        if is_stock(sentence) or world.split(sentence) == line.split
    ]
    return Script(
        split=line.split,
        speaker=speaker,
        voice=Voice(name, draws.pick(RATES), pitch + draws.pick(PITCH_STEPS)),
        text=" ".join((*before, line.sentences[-1])),
        facts=line.facts,
    )


def _accepted_line(
    world: World, draws: Draws, guard: Guard, kept: Collection[tuple[str, ...]]
) -> _Line:
    """The first drawn line that may be spoken."""
    while True:
        sentences = _sentences(world, draws)
        if guard.passes(" ".join(sentences)) and sentences not in kept:
            telling = [sentence for sentence in sentences if not is_stock(sentence)]
            return _Line(sentences, world.split(telling[-1]) if telling else "train")


def _sentences(world: World, draws: Draws) -> tuple[str, ...]:
    """A part of a story, a question, how something is, or what might be an answer."""
    kind = draws.below(_LINES - _FACT_LINES)
    if kind < 8:
        story = tell(draw_cast(draws), draws)
        sentences = (*story.context, story.right)
        start = len(sentences) - 1 - draws.below(min(3, len(sentences)))
        return sentences[start : start + 1 + draws.below(3)]
    if kind == 8:
        asked = draws.pick(world.facts)
        return (asked.question(draws.below(len(asked.relation.questions))),)
    if kind == 9:
        return tuple(ask_rule(draws)[0].replace(". ", ".|").split("|"))
    number = 1 + draws.below(3)
    if world.has_phrases and draws.below(4) > 0:
        return tuple(other_answer(world.facts, draws) for _ in range(number))
    return tuple(describe(draws) for _ in range(number))


def _fact_line(world: World, fact: Fact, draws: Draws) -> _Line:
    """A statement, at times after its question.

    Only the last way to state a fact may be held out, so that every fact is stated in training.
    """
    ways = len(fact.relation.statements)
    way = draws.below(ways)
    statement = fact.statement(way)
    split = world.split(statement, times=ways) if way == ways - 1 else "train"
    if draws.below(4) == 0:
        question = fact.question(draws.below(len(fact.relation.questions)))
        return _Line((question, statement), split, (fact.id,))
    return _Line((statement,), split, (fact.id,))
