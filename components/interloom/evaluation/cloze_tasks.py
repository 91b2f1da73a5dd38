"""Story cloze over groups of items: which facts and stories did the model carry into speech?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from interloom.config.evaluation import ClozeScore
from interloom.evaluation.choice import ChosenSet, Item
from interloom.evaluation.cloze import (
    SCORES,
    ClozeItem,
    ClozeMode,
    Passage,
    TokenScorer,
    choices,
)
from interloom.evaluation.measures import Findings, Judging, Measure
from interloom.evaluation.spoken import Codes
from interloom.text.bpe import TextTokenizer
from interloom.vocabulary.layout import VocabularyLayout


@dataclass(frozen=True, slots=True)
class Reader:
    """The model that is asked, and what turns texts into its ids.

    ``takes`` holds for each voice the codes of what it could say.
    """

    scorer: TokenScorer
    layout: VocabularyLayout
    text: TextTokenizer
    takes: Sequence[Mapping[str, Codes]]


def measure_cloze(group: ChosenSet, reader: Reader, judging: Judging) -> Findings:
    """One group of pairs, or the set of four endings, in all modes.

    An item counts in the voices that could say all of it. One that none could say counts in no
    mode: all modes rest on the same items, and their number is reported.
    """
    told = {row["id"]: _takes(row, reader) for row in group.items}
    rows = [row for row in group.items if told[row["id"]]]
    items = [_item(row, told[row["id"]], reader) for row in rows]
    task, *named = group.name.split("/")
    measures: list[Measure] = []
    details: dict[str, dict[str, dict[str, float | int]]] = {}
    for mode in ClozeMode:
        right = choices(items, mode, reader.scorer, reader.layout) if items else {}
        estimates = {score: judging.share(right.get(score, ())) for score in SCORES}
        asked = _asked(mode, judging.config.cloze_score, len(reader.takes))
        scores = group.scores(rows, right.get(judging.config.cloze_score, ()), asked=asked)
        estimate = estimates[judging.config.cloze_score]
        measures.append(Measure("/".join([task, mode, *named]), estimate, scores))
        details[mode.value] = {score: one.to_dict() for score, one in estimates.items()}
    return Findings(tuple(measures), (group,), {group.name: details})


def texts_of(rows: Sequence[Item]) -> list[str]:
    """Everything that must be spoken for these items."""
    return [text for row in rows for text in (row["context"], row["right"], *_wrong(row))]


def _asked(mode: ClozeMode, score: ClozeScore, num_voices: int) -> str:
    """What besides the items makes two results comparable."""
    return f"{score}, {num_voices} voices" if mode.has_speech else score


def _wrong(row: Item) -> list[str]:
    """One wrong ending, or several."""
    return [row["wrong"]] if isinstance(row["wrong"], str) else list(row["wrong"])


def _takes(row: Item, reader: Reader) -> list[Mapping[str, Codes]]:
    """The voices that could say every text of an item."""
    texts = texts_of([row])
    return [spoken for spoken in reader.takes if all(text in spoken for text in texts)]


def _item(row: Item, takes: Sequence[Mapping[str, Codes]], reader: Reader) -> ClozeItem:
    """An item as ids; endings begin with the space that joins them to their context."""

    def passage(text: str, joint: str) -> Passage:
        ids = reader.text.encode(joint + text)
        return Passage(tuple(ids), tuple(tuple(spoken[text].tolist()) for spoken in takes))

    return ClozeItem(
        context=passage(row["context"], ""),
        right=passage(row["right"], " "),
        wrong=tuple(passage(one, " ") for one in _wrong(row)),
    )
