"""The starter corpus in ``data/``, and its pin."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from interloom.adapters.folder_store import FolderStore
from interloom.config.corpora import IngestConfig, StarterWorld
from interloom.core.artifacts import ArtifactKind, ArtifactRef, tree_md5
from interloom.core.errors import DataError
from interloom.corpora.pinned import (
    FOLDERS,
    check_pin,
    corpus_shards,
    is_pinned_world,
    materialise,
    place_starter_corpus,
    read_pin,
    write_pin,
)
from interloom.ports.workspace import Workspace
from interloom.stages.ingest import IngestRequest, ingest

REPOSITORY = Path(__file__).parents[2]
KINDS = {
    "speech": ArtifactKind.SPEECH_CORPUS,
    "text": ArtifactKind.TEXT_CORPUS,
    "dialogues": ArtifactKind.DIALOGUE_CORPUS,
    "tasks": ArtifactKind.TASKS,
}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def corpora(store: FolderStore) -> dict[str, ArtifactRef]:
    """One small shard in each corpus."""
    return {name: _artifact(store, kind, f"{name} one") for name, kind in KINDS.items()}


def _artifact(store: FolderStore, kind: ArtifactKind, text: str) -> ArtifactRef:
    with store.draft(kind) as draft:
        with draft.shard("rows/train-00000.parquet") as shard:
            shard.path.write_text(text)
        return draft.commit()


def test_each_corpus_has_its_folder(
    store: FolderStore, corpora: dict[str, ArtifactRef], tmp_path: Path
) -> None:
    materialise(store, corpus_shards(store, corpora), tmp_path / "data")

    files = sorted(path for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert [path.relative_to(tmp_path / "data").as_posix() for path in files] == [
        f"{folder}/rows/train-00000.parquet" for folder in FOLDERS
    ]
    assert files[0].read_text() == "dialogues one"


def test_what_was_edited_is_made_anew(
    store: FolderStore, corpora: dict[str, ArtifactRef], tmp_path: Path
) -> None:
    shards = corpus_shards(store, corpora)
    materialise(store, shards, tmp_path / "data")
    file = tmp_path / "data/text/rows/train-00000.parquet"
    file.write_text("text 1ne")

    materialise(store, shards, tmp_path / "data")

    assert file.read_text() == "text one"
    store.verify(corpora["text"], every_byte=True)


def test_a_folder_of_something_else_is_left_alone(
    store: FolderStore, corpora: dict[str, ArtifactRef], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("years of work")

    with pytest.raises(DataError, match=r"holds 'thesis\.txt', which is not of the starter corpus"):
        materialise(store, corpus_shards(store, corpora), tmp_path / "data")

    assert (tmp_path / "data" / "thesis.txt").exists()


@pytest.mark.slow
def test_dvc_finds_the_folder_as_pinned(
    store: FolderStore, corpora: dict[str, ArtifactRef], tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    (repository / ".dvc").mkdir(parents=True)
    (repository / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    no_scm = true\n"
    )
    write_pin(corpus_shards(store, corpora), repository / "data.dvc")

    check = place_starter_corpus(store, corpora, repository, strict=True)

    assert check.is_as_pinned
    assert check.warning == ""
    assert _dvc_status(repository) == {}
    (repository / "data/text/rows/train-00000.parquet").write_text("another text")
    assert "data.dvc" in _dvc_status(repository)


def _dvc_status(repository: Path) -> dict[str, object]:
    run = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    status: dict[str, object] = json.loads(run.stdout)
    return status


def test_another_corpus_is_warned_of_and_used(
    store: FolderStore, corpora: dict[str, ArtifactRef], tmp_path: Path
) -> None:
    pinned = corpus_shards(store, corpora)
    write_pin(pinned, tmp_path / "data.dvc")
    other = corpora | {"text": _artifact(store, ArtifactKind.TEXT_CORPUS, "text two")}

    check = place_starter_corpus(store, other, tmp_path)

    built = tree_md5(corpus_shards(store, other))
    assert (check.pinned, check.built) == (tree_md5(pinned), built)
    assert f"expected {check.pinned}, got {built}" in check.warning
    assert (tmp_path / "data/text/rows/train-00000.parquet").read_text() == "text two"


def test_strict_refuses_another_corpus(
    store: FolderStore, corpora: dict[str, ArtifactRef], tmp_path: Path
) -> None:
    write_pin(corpus_shards(store, corpora), tmp_path / "data.dvc")
    other = corpora | {"text": _artifact(store, ArtifactKind.TEXT_CORPUS, "text two")}

    with pytest.raises(DataError, match=r"is not the pinned one: .* leave out --strict-data"):
        place_starter_corpus(store, other, tmp_path, strict=True)

    assert not (tmp_path / "data").exists()


def test_without_a_pin_nothing_is_written(
    store: FolderStore, corpora: dict[str, ArtifactRef], tmp_path: Path
) -> None:
    check = place_starter_corpus(store, corpora, tmp_path, strict=True)

    assert check.pinned is None
    assert check.is_as_pinned
    assert not (tmp_path / "data").exists()


def test_a_pin_without_a_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text("outs: []\n")

    with pytest.raises(DataError, match=r"data\.dvc pins no folder: a line 'md5"):
        read_pin(tmp_path / "data.dvc")


def test_only_the_starter_world_as_it_is_has_a_pin() -> None:
    assert is_pinned_world(IngestConfig(), seed=0)
    assert not is_pinned_world(IngestConfig(), seed=1)
    assert not is_pinned_world(IngestConfig(source=StarterWorld(speech_seconds=9)), seed=0)


@pytest.mark.slow
def test_the_starter_corpus_of_this_machine_is_the_pinned_one(
    store: FolderStore, tmp_path: Path
) -> None:
    made = ingest(IngestRequest(config=IngestConfig()), store=store, work=Workspace(tmp_path))

    shards = corpus_shards(store, made.outputs())
    assert check_pin(shards, REPOSITORY / "data.dvc", strict=True).is_as_pinned
