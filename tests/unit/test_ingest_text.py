"""Text and chats of one's own."""

import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interloom.config.corpora import TakeIn, TextLimits
from interloom.core.errors import DataError, MissingError
from interloom.corpora.ingest_dialogue import ingest_dialogues
from interloom.corpora.ingest_text import ingest_text
from interloom.corpora.intake import IngestOutcome
from interloom.corpora.lines import read_jsonl, text_field
from interloom.corpora.tables import read_table
from interloom.ports.progress import NoProgress
from interloom.testing.store import MemoryStore

OPTIONS = TakeIn(name="mine", licence="CC-BY-4.0")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def take(store: MemoryStore, path: Path, options: TakeIn = OPTIONS) -> IngestOutcome:
    return ingest_text(path, options, store=store, progress=NoProgress())


def texts(store: MemoryStore, outcome: IngestOutcome) -> dict[str, str]:
    return {row["id"]: row["text"] for row in read_table(store, outcome.corpus, "documents")}


def test_plain_text_is_cut_between_paragraphs(store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("one two\nthree\n\nfour\n\n\nfive six seven\n")
    options = TakeIn(name="mine", text=TextLimits(max_characters=20))

    outcome = take(store, path, options)

    assert texts(store, outcome) == {
        "book.txt#1": "one two\nthree\n\nfour",
        "book.txt#2": "five six seven",
    }


@settings(max_examples=50, deadline=None)
@given(
    paragraphs=st.lists(st.text("ab ", min_size=1, max_size=30).filter(str.strip), min_size=1),
    limit=st.integers(1, 60),
)
def test_no_paragraph_is_lost_or_cut(paragraphs: list[str], limit: int) -> None:
    store = MemoryStore()
    options = TakeIn(name="mine", text=TextLimits(max_characters=limit))
    fitting = [one.rstrip() for one in paragraphs if len(one) <= limit]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "book.txt"
        path.write_text("".join(f"{one}\n\n" for one in paragraphs))
        if not fitting:
            with pytest.raises(DataError, match="no row of"):
                take(store, path, options)
            return
        outcome = take(store, path, options)

    told = [part for text in texts(store, outcome).values() for part in text.split("\n\n")]
    assert told == fitting


def test_a_long_paragraph_is_cut_between_lines(store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("first line\nsecond line\nthird\n")
    options = TakeIn(name="mine", text=TextLimits(max_characters=20))

    assert list(texts(store, take(store, path, options)).values()) == [
        "first line",
        "second line\nthird",
    ]


def test_a_line_that_is_too_long_is_refused_alone(store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("one\n\n" + "x" * 50 + "  " + "y" * 50 + "\n\ntwo\n")
    options = TakeIn(name="mine", text=TextLimits(max_characters=20))

    outcome = take(store, path, options)

    assert texts(store, outcome) == {"book.txt#1": "one", "book.txt#3": "two"}
    assert outcome.refusals[0].reason == "it has over 20 characters"


def test_a_folder_is_read_in_order_of_path(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")

    assert list(texts(store, take(store, tmp_path)).items()) == [
        ("a.txt#1", "first"),
        ("sub/b.txt#1", "second"),
    ]


def test_rows_of_jsonl_keep_id_and_licence(store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"id": "x", "text": "one", "licence": "MIT"}, {"text": "two"}, {"id": 3, "text": "3"}]
    path.write_text("\n".join(map(json.dumps, rows)))

    outcome = take(store, path)

    assert texts(store, outcome) == {"x": "one", "rows.jsonl:2": "two", "3": "3"}
    assert store.manifest(outcome.corpus).licences == ("CC-BY-4.0", "MIT")
    row = next(read_table(store, outcome.corpus, "documents"))
    assert row["may_interleave"] is True


def test_rows_of_parquet_are_read(store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["one", None, "three"], "more": [1, 2, 3]}), path)

    outcome = take(store, path)

    assert texts(store, outcome) == {"rows.parquet:1": "one", "rows.parquet:3": "three"}
    assert outcome.refusals[0].reason == "it has 0 characters, at least 1"


def test_bad_documents_are_refused_by_name_and_reason(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"id": "good", "text": "fine"}\n{"id": "good", "text": "again"}\nnonsense\n'
        '{"id": "none"}\n{"id": "list", "text": [1]}\n{"id": "blank", "text": "  "}\n'
        + json.dumps({"id": "long", "text": "x" * 20_001})
        + "\n"
        + json.dumps({"id": "zero", "text": "a\0b"})
        + "\n"
    )
    (tmp_path / "b.txt").write_bytes(b"caf\xe9 au lait")
    (tmp_path / "c.parquet").write_bytes(b"PAR?")

    outcome = take(store, tmp_path)

    reasons = {one.name: one.reason for one in outcome.refusals}
    assert reasons["good"] == "the id 'good' was taken by an earlier row; ids are unique"
    assert reasons["a.jsonl:3"].startswith("the line is not JSON")
    assert reasons["none"] == "it has no field 'text'"
    assert reasons["a.jsonl:5"] == "the field 'text' must be text, got list"
    assert reasons["blank"] == "it has 0 characters, at least 1"
    assert reasons["long"] == "it has over 20000 characters"
    assert reasons["zero"] == "it holds characters that stand for bytes which are no text"
    assert reasons["b.txt#1"] == "it holds characters that stand for bytes which are no text"
    assert reasons["c.parquet"].startswith("the file cannot be read as Parquet")
    assert (outcome.accepted, outcome.refused) == (1, 9)


def test_a_link_out_of_the_folder_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "in" / "a.txt").write_text("fine")
    (tmp_path / "in" / "b.txt").symlink_to(tmp_path / "secret.txt")

    outcome = take(store, tmp_path / "in")

    assert outcome.refusals[0].reason == "the link 'b.txt' leaves the folder"


def test_a_source_without_text_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no text file"):
        take(store, tmp_path)
    with pytest.raises(MissingError, match="next: name a file or folder that exists"):
        take(store, tmp_path / "nothing")


def test_a_long_line_is_skipped_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "' + "x" * 100 + '"}\n{"a": 1}\n')

    first, second = read_jsonl(path, max_row_bytes=20)

    assert (first.row, first.reason) == ("rows.jsonl:1", "the line is over 20 bytes long")
    assert (second.row, second.values) == ("rows.jsonl:2", {"a": 1})


def test_a_field_is_the_first_of_its_names_that_is_there() -> None:
    assert text_field({"b": "x", "c": "y"}, "a", "b", "c") == "x"
    assert text_field({}, "a") == ""
    assert text_field({"a": 7}, "a") == "7"


def chat(*turns: str) -> str:
    """A row whose turns are by user and assistant in turn."""
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    return json.dumps({"messages": messages})


def test_chats_are_read(store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    system = {"id": "two", "turns": [{"role": "system", "text": "be kind"}]}
    system["turns"] += [{"role": "user", "text": " hi "}, {"role": "assistant", "text": "hello"}]  # type: ignore[operator]
    path.write_text(f"{chat('how?', 'so.', 'why?', 'well.')}\n{json.dumps(system)}\n")

    outcome = ingest_dialogues(path, OPTIONS, store=store, progress=NoProgress())

    first, second = read_table(store, outcome.corpus, "dialogues")
    assert [turn["text"] for turn in first["turns"]] == ["how?", "so.", "why?", "well."]
    assert second["id"] == "two"
    assert second["turns"] == [
        {"role": "user", "text": "hi"},
        {"role": "assistant", "text": "hello"},
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "the line is not JSON"),
        ('{"text": "hi"}', "it has no list 'messages' or 'turns' of objects"),
        (chat("hi"), "user and assistant must take turns, user first, got ['user']"),
        ('{"turns": []}', "user and assistant must take turns"),
        (chat("hi", " "), "turn 2 is empty"),
        (chat("fine", "yes"), "the id 'same' was taken by an earlier row"),
    ],
)
def test_bad_chats_are_refused(store: MemoryStore, tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "chats.jsonl"
    same = line.replace('{"messages"', '{"id": "same", "messages"')
    good = chat("a", "b").replace('{"messages"', '{"id": "same", "messages"')
    path.write_text(f"{good}\n{same}\n")

    outcome = ingest_dialogues(path, OPTIONS, store=store, progress=NoProgress())

    assert outcome.accepted == 1
    assert outcome.refusals[0].reason.startswith(reason)
    assert outcome.refusals[0].row == "chats.jsonl:2"


def test_chats_in_another_form_are_refused(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "chats.csv").write_text("a,b")

    with pytest.raises(DataError, match=r"dialogues are a \.jsonl or \.jsonl\.gz file"):
        ingest_dialogues(tmp_path / "chats.csv", OPTIONS, store=store, progress=NoProgress())
