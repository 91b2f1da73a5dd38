"""The starter corpus as plain files in ``data/``, and the digest of it that ``data.dvc`` pins.

The digest is the one that DVC gives the folder, so that ``dvc status`` says whether the files are
those that were pinned.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from interloom.config.corpora import IngestConfig
from interloom.core.artifacts import ArtifactRef, Shard, tree_json, tree_md5
from interloom.core.errors import DataError
from interloom.ports.store import ArtifactStore

PIN = "data.dvc"
FOLDERS = ("dialogues", "speech", "tasks", "text")
_MD5 = re.compile(r"^[-\s]*md5:\s*([0-9a-f]{32}\.dir)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PinCheck:
    """Whether a corpus is the pinned one.

    Attributes:
        built: DVC's digest of what was built.
        pinned: The digest in ``data.dvc``; None if there is no such file.
    """

    built: str
    pinned: str | None

    @property
    def is_as_pinned(self) -> bool:
        """Whether nothing contradicts the pin."""
        return self.pinned in {None, self.built}

    @property
    def warning(self) -> str:
        """What to tell about it; empty if there is nothing to tell."""
        if self.is_as_pinned:
            return ""
        return (
            f"this machine built another starter corpus than data.dvc pins: expected {self.pinned},"
            f" got {self.built}; it is used under its own version. Figures of other machines may "
            "not repeat exactly; versions of espeak-ng, soxr, libsndfile or pyarrow may differ "
            "from constraints.txt"
        )


def is_pinned_world(config: IngestConfig, seed: int) -> bool:
    """Whether ``data.dvc`` speaks of what this configuration builds: the starter world as it is."""
    return config == IngestConfig() and seed == 0


def place_starter_corpus(
    store: ArtifactStore,
    corpora: Mapping[str, ArtifactRef],
    repository: Path,
    *,
    strict: bool = False,
) -> PinCheck:
    """Compare a starter corpus with the pin of a repository, and put it there as ``data/``.

    Without ``data.dvc`` nothing is written. DVC's cache is filled where there is a ``.dvc`` folder.

    Args:
        store: Holds the corpora.
        corpora: What ``ingest`` made, by name.
        repository: The folder of ``data.dvc``.
        strict: Refuse another corpus than the pinned one.

    Returns:
        Both digests, and a warning to show if they differ.

    Raises:
        DataError: ``strict`` and it is another corpus; or ``data/`` holds something else.
    """
    shards = corpus_shards(store, corpora)
    check = check_pin(shards, repository / PIN, strict=strict)
    if check.pinned is not None:
        materialise(store, shards, repository / "data")
        if (repository / ".dvc").is_dir():
            fill_dvc_cache(store, shards, repository / ".dvc" / "cache")
    return check


def corpus_shards(store: ArtifactStore, corpora: Mapping[str, ArtifactRef]) -> tuple[Shard, ...]:
    """The shards of all corpora, each below a folder of its name.

    Args:
        store: Holds them.
        corpora: By the names in ``FOLDERS``; others are left out.
    """
    return tuple(
        replace(shard, path=f"{folder}/{shard.path}")
        for folder in FOLDERS
        for shard in store.manifest(corpora[folder]).shards
    )


def check_pin(shards: tuple[Shard, ...], pin: Path, *, strict: bool) -> PinCheck:
    """Compare what was built with what ``data.dvc`` pins.

    Args:
        shards: As ``corpus_shards`` gives them.
        pin: The ``data.dvc`` file; it need not exist.
        strict: Refuse another corpus instead of letting the caller warn of it.

    Raises:
        DataError: The pin cannot be read, or ``strict`` and the corpus is another one.
    """
    check = PinCheck(built=tree_md5(shards), pinned=read_pin(pin) if pin.exists() else None)
    if strict and not check.is_as_pinned:
        raise DataError(
            f"the starter corpus is not the pinned one: {pin.name} pins {check.pinned}, "
            f"got {check.built}; next: install constraints.txt, or leave out --strict-data"
        )
    return check


def read_pin(pin: Path) -> str:
    """The digest in a ``.dvc`` file of one folder.

    Raises:
        DataError: There is none in it.
    """
    found = _MD5.search(pin.read_text(encoding="utf-8"))
    if found is None:
        raise DataError(f"{pin.name} pins no folder: a line 'md5: ….dir' is expected")
    return found.group(1)


def write_pin(shards: tuple[Shard, ...], pin: Path) -> None:
    """Write a ``.dvc`` file for the folder beside it that has its name."""
    pin.write_text(
        "outs:\n"
        f"- md5: {tree_md5(shards)}\n"
        f"  size: {sum(shard.num_bytes for shard in shards)}\n"
        f"  nfiles: {len(shards)}\n"
        "  hash: md5\n"
        f"  path: {pin.stem}\n",
        encoding="utf-8",
    )


def materialise(store: ArtifactStore, shards: tuple[Shard, ...], folder: Path) -> None:
    """Make ``folder`` hold these shards and nothing else; a kill leaves the old or the new one.

    Files are copied: whoever edits them does not touch the store.

    Raises:
        DataError: The folder holds something that is not of a starter corpus.
    """
    if folder.exists():
        if foreign := sorted({path.name for path in folder.iterdir()} - set(FOLDERS)):
            raise DataError(
                f"{folder} holds {foreign[0]!r}, which is not of the starter corpus and would be "
                "lost; next: move it elsewhere"
            )
        if _holds(folder, shards):
            return
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    for shard in shards:
        target = building / shard.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store.local_path(shard), target)
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)


def fill_dvc_cache(store: ArtifactStore, shards: tuple[Shard, ...], cache: Path) -> None:
    """Put shards and their tree into DVC's cache, so that DVC knows the folder that they form.

    Files are linked where the store lies on the same disk, and copied otherwise. The tree goes
    last: it is DVC's sign that the folder is whole.

    Args:
        store: Holds the shards.
        shards: As ``corpus_shards`` gives them.
        cache: ``.dvc/cache`` of the repository.
    """
    for shard in shards:
        target = _object(cache, shard.md5)
        if not target.exists():
            source, building = store.local_path(shard), target.with_suffix(".building")
            building.unlink(missing_ok=True)
            try:
                building.hardlink_to(source)
            except OSError:
                shutil.copyfile(source, building)
            building.replace(target)
    _object(cache, tree_md5(shards)).write_bytes(tree_json(shards))


def _object(cache: Path, md5: str) -> Path:
    """Where DVC keeps an object; its folder is made."""
    path = cache / "files" / "md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _holds(folder: Path, shards: tuple[Shard, ...]) -> bool:
    """Whether a folder holds just these files with just these bytes."""
    files = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    return files.keys() == {shard.path for shard in shards} and all(
        _sha256(files[shard.path]) == shard.sha256 for shard in shards
    )


def _sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
