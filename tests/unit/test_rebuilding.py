"""``interloom rebuild``: rows back to the bytes of their documents."""

from dataclasses import replace

import pytest

from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError, MissingError
from interloom.corpora.interleaved import find_row, source_text
from interloom.corpora.tables import DOCUMENTS, write_table
from interloom.interleaving.making import Held
from interloom.interleaving.policies import Poisson
from interloom.interleaving.sampling import SpanRule
from interloom.interleaving.weaving import Provenance, Weaver, plan_document
from interloom.interleaving.writing import write_rows
from interloom.testing.store import MemoryStore
from interloom.testing.toy_speech import CODEBOOK_SIZE, ToySpeaker, document_row
from interloom.text.bpe import TextTokenizer
from interloom.vocabulary.layout import VocabularyLayout
from interloom_flows.cli.weaving import _rebuild_all, _rebuild_one

DOCUMENT_ROWS = [document_row(at, num_words=12) for at in range(30)]
TOKENIZER = TextTokenizer.train([row["text"] for row in DOCUMENT_ROWS], vocab_size=280)
LAYOUT = VocabularyLayout(TOKENIZER.vocab_size, CODEBOOK_SIZE, "a" * 64, "b" * 64)


def woven(store: MemoryStore, *, changed: int | None = None) -> ArtifactRef:
    """Rows of the documents; the corpus tells another text than one row."""
    with store.draft(ArtifactKind.TEXT_CORPUS) as draft:
        rows = [
            row | ({"text": row["text"] + "!"} if at == changed else {})
            for at, row in enumerate(DOCUMENT_ROWS)
        ]
        write_table(draft, "documents", DOCUMENTS, rows, rows_per_shard=8)
        text = draft.commit(licences=["CC0-1.0"])
    policy = Poisson("poisson-1", SpanRule(0.3, 2, 9))
    plans = [plan_document(row, policy, seed=0) for row in DOCUMENT_ROWS]
    results = [ToySpeaker().synthesise(plan.requests()) for plan in plans]
    made = Provenance("poisson-1", "text_to_token_model:c", "b" * 64, 0, "fp32", "toy")
    table = Weaver(TOKENIZER, LAYOUT, made).weave(plans, results)
    with store.draft(ArtifactKind.INTERLEAVED) as draft:
        for at in range(3):
            part = table.slice(at * 10, 10)
            write_rows(draft, "interleaved", f"{at:05d}", part, Held.of(part))
        return draft.commit(parents=[text], licences=["CC0-1.0"], facts={"made_by": "x"})


def test_a_row_is_found_by_its_id_and_rebuilt_byte_for_byte() -> None:
    store = MemoryStore()
    ref = woven(store)

    for row in DOCUMENT_ROWS[::7]:
        assert find_row(store, ref, "interleaved", row["id"])["text"] == row["text"]
        assert _rebuild_one(store, ref, row["id"], TOKENIZER) == row["text"]


def test_all_rows_are_rebuilt_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    store = MemoryStore()

    _rebuild_all(store, woven(store), TOKENIZER)

    assert capsys.readouterr().out.startswith("30 rows of interleaved:")


def test_a_row_that_is_not_there_is_named_with_some_that_are() -> None:
    store = MemoryStore()
    ref = woven(store)

    with pytest.raises(MissingError, match="has no row 'x'; its rows are called document-0, docum"):
        find_row(store, ref, "interleaved", "x")


def test_a_row_that_is_not_its_documents_text_is_refused() -> None:
    store = MemoryStore()
    ref = woven(store, changed=4)

    with pytest.raises(DataError, match=r"row 'document-4' of .* is not the text of its document"):
        _rebuild_one(store, ref, "document-4", TOKENIZER)


def test_a_row_whose_corpus_is_gone_is_compared_with_itself(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = MemoryStore()
    gone = ArtifactRef(ArtifactKind.TEXT_CORPUS, "e" * 64)
    orphan = replace(store.manifest(woven(store)), parents=(gone,))
    store.admit(orphan, store.local_path, every_byte=False)
    ref = orphan.ref

    assert source_text(store, ref, "document-4") is None
    assert _rebuild_one(store, ref, "document-4", TOKENIZER) == DOCUMENT_ROWS[4]["text"]
    assert "holds its document no more" in capsys.readouterr().err


def test_a_row_whose_ids_were_changed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    store = MemoryStore()
    other = TextTokenizer.train(["zzz yyy"], vocab_size=258)

    with pytest.raises(DataError, match=r"rebuilds to another text|no id of the text tokenizer"):
        _rebuild_all(store, woven(store), other)
