"""Small packed rows with something to learn, for tests of training."""

from pathlib import Path

import numpy as np

from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.mixture.alignment import Begin
from interloom.mixture.examples import Example
from interloom.mixture.plan import all_documents, draw_documents
from interloom.mixture.rows import RowPart
from interloom.mixture.spooling import CutRule, spool
from interloom.mixture.writing import write_rows
from interloom.ports.store import ArtifactStore
from interloom.vocabulary.layout import VocabularyLayout

LAYOUT = VocabularyLayout(20, 16, "1" * 64, "2" * 64)


def counting_examples(
    num_documents: int,
    *,
    is_speech: bool,
    is_aligned: bool = False,
    layout: VocabularyLayout = LAYOUT,
) -> list[Example]:
    """Documents that count up by a step of their own, modulo 20 in text and 16 in speech.

    If they are aligned, every third code of speech begins a word.
    """
    examples = []
    for number in range(num_documents):
        length = 6 + number * 5 % 17
        values = (number + np.arange(length) * (1 + number % 3)).astype(np.int32)
        ids = layout.wrap_audio(values % 16) if is_speech else values % 20
        begins = np.zeros(len(ids), np.uint8)
        begins[1:-1:3] = Begin.WORD
        known = begins if is_aligned and is_speech else None
        examples.append(Example.after(f"{number}", ids, 1, "CC0-1.0", known))
    return examples


def store_counting_rows(
    store: ArtifactStore,
    folder: Path,
    *,
    num_documents: int = 60,
    row_length: int = 48,
    is_aligned: bool = False,
    layout: VocabularyLayout = LAYOUT,
) -> ArtifactRef:
    """An artifact of packed rows of counting in text and in speech.

    The rows it holds out are of the same documents.
    """
    rule = CutRule(row_length, layout, refuses_unfit=True)
    sources = {
        name: spool(
            name,
            counting_examples(
                num_documents, is_speech=name == "speech", is_aligned=is_aligned, layout=layout
            ),
            rule,
            folder,
        )
        for name in ("text", "speech")
    }
    draws = draw_documents(
        [{name: held.num_tokens for name, held in sources.items()}],
        {name: held.lengths_D for name, held in sources.items()},
        seed=1,
    )
    with store.draft(ArtifactKind.PACKED_ROWS) as draft:
        write_rows(draft, sources, draws, row_length=row_length, layout=layout)
        few = all_documents(dict.fromkeys(sources, 10))
        write_rows(draft, sources, few, row_length=row_length, layout=layout, part=RowPart.HELDOUT)
        return draft.commit(
            licences=["CC0-1.0"],
            facts={"layout": layout.to_dict(), "vocabulary": layout.digest},
        )
