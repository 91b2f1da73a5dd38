"""Publishing many small recordings: Interloom's shards against DVC's file per recording.

Both start from a folder of files and end with their content in the layout of a DVC remote
on the same disk: ours as synced Parquet shards, theirs by ``dvc add`` (hard links,
no copies) and ``dvc push``. ``dvc`` is the installed one.

    python benchmarks/publish.py
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interloom.adapters.folder_store import FolderStore
from interloom.core.artifacts import ArtifactKind
from interloom.corpora.tables import UTTERANCES, write_table

NUM_BYTES = 10_000
SIZES = (1_000, 5_000)
TURNS = 3


def make_files(folder: Path, count: int) -> None:
    """Files of noise: nothing that compresses."""
    folder.mkdir(parents=True)
    for index in range(count):
        noise = np.random.Generator(np.random.Philox(key=7, counter=index)).bytes(NUM_BYTES)
        (folder / f"{index:06d}.flac").write_bytes(noise)


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """One utterance a file."""
    for path in sorted(folder.iterdir()):
        yield {
            "id": path.stem,
            "split": "train",
            "speaker": "one",
            "text": "",
            "audio": path.read_bytes(),
            "num_samples": 0,
            "words": [],
            "source": "bench",
            "licence": "CC0-1.0",
            "facts": [],
        }


def publish_ours(files: Path, scratch: Path) -> None:
    """Pack, hash, sync and commit."""
    store = FolderStore(scratch / "store")
    with store.draft(ArtifactKind.SPEECH_CORPUS) as draft:
        write_table(draft, "utterances", UTTERANCES, rows(files))
        ref = draft.commit(licences=["CC0-1.0"])
    store.verify(ref, every_byte=False)


def publish_dvc(files: Path, scratch: Path) -> None:
    """``dvc add`` and ``dvc push`` to a local remote."""
    repository = scratch / "repository"
    shutil.copytree(files, repository / "corpus", copy_function=os.link)
    for arguments in (
        ("init", "--no-scm", "-q"),
        ("config", "core.analytics", "false"),
        ("config", "cache.type", "hardlink"),
        ("remote", "add", "-q", "-d", "store", str(scratch / "store")),
        ("add", "-q", "corpus"),
        ("push", "-q"),
    ):
        subprocess.run(
            [str(Path(sys.executable).with_name("dvc")), *arguments],
            cwd=repository,
            check=True,
            timeout=280,
        )


def rate(publish: Callable[[Path, Path], None], files: Path, count: int) -> float:
    """Recordings a second."""
    with tempfile.TemporaryDirectory(dir=files.parent) as scratch:
        started_s = time.perf_counter()
        publish(files, Path(scratch))
        return count / (time.perf_counter() - started_s)


def compare(count: int) -> dict[str, Any]:
    """Both sides in turns over the same files."""
    with tempfile.TemporaryDirectory(prefix="interloom-bench-") as folder:
        files = Path(folder) / "files"
        make_files(files, count)
        ours, theirs = [], []
        for _ in range(TURNS):
            ours.append(rate(publish_ours, files, count))
            theirs.append(rate(publish_dvc, files, count))
    return {
        "recordings": count,
        "interloom": summary(ours),
        "dvc": summary(theirs),
        "ratio": round(statistics.median(ours) / statistics.median(theirs), 2),
    }


def summary(rates: Sequence[float]) -> dict[str, float]:
    """Median and spread."""
    return {
        "median": round(statistics.median(rates), 1),
        "min": round(min(rates), 1),
        "max": round(max(rates), 1),
    }


def main() -> None:
    """Print one line a size, then the figure as JSON."""
    configs = [compare(count) for count in SIZES]
    for config in configs:
        print(config)
    worst = min(config["ratio"] for config in configs)
    print(
        json.dumps(
            {"figure": "publish", "unit": "recordings/s", "configs": configs, "ratio": worst}
        )
    )


if __name__ == "__main__":
    main()
