"""Packed rows for other programs."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import ConfigError
from interloom.mixture.exporting import RowFormat, export_rows
from interloom.mixture.indexed import IndexedTokens
from interloom.mixture.rows import StoredRows, load_rows
from interloom.testing.rows import LAYOUT, store_counting_rows
from interloom.testing.store import MemoryStore
from interloom_flows.cli.application import run_command

Held = tuple[MemoryStore, ArtifactRef, StoredRows]


@pytest.fixture
def held(tmp_path: Path) -> Held:
    store = MemoryStore()
    ref = store_counting_rows(store, tmp_path)
    return store, ref, load_rows(store, ref)


def test_megatron_files_hold_a_document_for_each_row(held: Held, tmp_path: Path) -> None:
    store, ref, rows = held

    paths = export_rows(store, ref, tmp_path / "out", RowFormat.MEGATRON)

    names = sorted(path.name for path in paths)
    assert names == ["rows-00000.bin", "rows-00000.idx", "vocabulary.json"]
    tokens = IndexedTokens(tmp_path / "out/rows-00000.bin", tmp_path / "out/rows-00000.idx")
    assert tokens.num_documents == rows.num_rows
    for number in range(rows.num_rows):
        assert tokens.document(number).tolist() == rows.tokens(number).tolist()
    vocabulary = json.loads((tmp_path / "out/vocabulary.json").read_text())
    assert vocabulary == {"digest": LAYOUT.digest, "layout": LAYOUT.to_dict()}


def test_parquet_holds_tokens_targets_and_where_they_are_from(held: Held, tmp_path: Path) -> None:
    store, ref, rows = held

    export_rows(store, ref, tmp_path / "out", RowFormat.PARQUET)

    table = pq.read_table(tmp_path / "out/rows.parquet").to_pylist()
    batch = rows.batch(range(rows.num_rows))
    for number, row in enumerate(table):
        length = len(row["tokens"])
        assert row["tokens"] == rows.tokens(number).tolist()
        assert row["is_target"] == batch.is_target_BL[number, :length].tolist()
        assert [piece["document"] for piece in row["pieces"]] == [
            origin.document_id for origin in rows.origins(number)
        ]
        assert sum(piece["tokens"] for piece in row["pieces"]) == length
        assert {piece["licence"] for piece in row["pieces"]} == {"CC0-1.0"}
    assert len(table) == rows.num_rows


def test_webdataset_shards_hold_a_sample_for_each_row(held: Held, tmp_path: Path) -> None:
    store, ref, rows = held

    first = export_rows(store, ref, tmp_path / "a", RowFormat.WEBDATASET)
    again = export_rows(store, ref, tmp_path / "b", RowFormat.WEBDATASET)

    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    with tarfile.open(first[0]) as tar:
        names = tar.getnames()
        assert names[:3] == ["000000000.tokens.npy", "000000000.targets.npy", "000000000.json"]
        assert len(names) == 3 * rows.num_rows
        member = tar.extractfile(f"{rows.num_rows - 1:09d}.tokens.npy")
        assert member is not None
        tokens = np.load(io.BytesIO(member.read()))
    assert tokens.tolist() == rows.tokens(rows.num_rows - 1).tolist()


def test_a_folder_with_something_in_it_is_left_alone(held: Held, tmp_path: Path) -> None:
    store, ref, _ = held
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")

    with pytest.raises(ConfigError, match="is not empty; name a new folder"):
        export_rows(store, ref, tmp_path / "out", RowFormat.PARQUET)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--as", "parket"], 64, "not 'parket'; did you mean parquet?"),
        ([], 69, "no dataset is called 'mine'"),
    ],
)
def test_a_wrong_wish_is_one_clear_line(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("INTERLOOM_HOME", str(tmp_path / "home"))

    ended = run_command(["data", "rows", "mine", "--to", str(tmp_path / "out"), *arguments])

    assert ended == code
    assert message in capsys.readouterr().err
