"""Publishing many small recordings to S3: Interloom's shards against DVC's object per recording.

Both start from a folder of files and end with their content in the layout of a DVC remote in the
same bucket of the same server (SeaweedFS, started here): ours as Parquet shards written by the
store, theirs by ``dvc add`` (hard links, no copies) and ``dvc push``. After each size the real
``dvc pull`` fetches what Interloom published, and every byte is compared.

    python benchmarks/publish.py
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from _sides import OURS, compared, rates_in_turns, show

from interloom.adapters.dvc_export import export_dvc, remote_options
from interloom.adapters.stores import open_store_at
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.corpora.tables import UTTERANCES, write_table
from interloom.ports.store import ArtifactStore
from interloom.testing.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, s3_server

NUM_BYTES = 10_000
TURNS = {1_000: 3, 10_000: 2}
DVC_TIMEOUT_S = 1_500


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


def our_store(server: S3Server, scratch: Path) -> ArtifactStore:
    """An empty store of its own, with an empty cache."""
    url = f"s3://{BUCKET}/ours/{uuid4().hex}"
    return open_store_at(url, server.settings(), cache_folder=scratch / "cache")


def publish_ours(server: S3Server, files: Path, scratch: Path) -> tuple[ArtifactStore, ArtifactRef]:
    """Probe the server, pack, hash, upload, commit, check."""
    store = our_store(server, scratch)
    store.prepare()
    with store.draft(ArtifactKind.SPEECH_CORPUS) as draft:
        write_table(draft, "utterances", UTTERANCES, rows(files))
        ref = draft.commit(licences=["CC0-1.0"])
    store.verify(ref, every_byte=False)
    return store, ref


def dvc(folder: Path, *arguments: str) -> None:
    """Run the installed DVC, as the server's user."""
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    subprocess.run(
        [str(Path(sys.executable).with_name("dvc")), *arguments],
        cwd=folder,
        env=os.environ | keys | {"HOME": str(folder), "DVC_NO_ANALYTICS": "1"},
        check=True,
        timeout=DVC_TIMEOUT_S,
        stdout=subprocess.DEVNULL,
    )


def publish_dvc(server: S3Server, files: Path, scratch: Path) -> None:
    """``dvc add`` and ``dvc push`` to a remote of their own."""
    repository = scratch / "repository"
    repository.mkdir()
    dvc(repository, "init", "--no-scm", "-q")
    dvc(repository, "config", "core.analytics", "false")
    dvc(repository, "config", "cache.type", "hardlink")
    url = f"s3://{BUCKET}/theirs/{uuid4().hex}"
    dvc(repository, "remote", "add", "-q", "-d", "store", url)
    dvc(repository, "remote", "modify", "store", "endpointurl", server.endpoint)
    shutil.copytree(files, repository / "corpus", copy_function=os.link)
    dvc(repository, "add", "-q", "corpus")
    dvc(repository, "push", "-q")


def in_scratch(
    publish: Callable[[S3Server, Path, Path], object], server: S3Server, files: Path
) -> None:
    """Publish once, in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=files.parent) as scratch:
        publish(server, files, Path(scratch))


def read_back(server: S3Server, files: Path) -> None:
    """Let DVC pull what we publish, and compare every byte.

    Raises:
        SystemExit: DVC got something else.
    """
    with tempfile.TemporaryDirectory(dir=files.parent) as scratch:
        store, ref = publish_ours(server, files, Path(scratch))
        clone = Path(scratch) / "clone"
        manifest = store.manifest(ref)
        export_dvc(manifest, "corpus", clone, remote=remote_options(store.url, server.settings()))
        dvc(clone, "pull", "-q", "corpus.dvc")
        for shard in manifest.shards:
            with (clone / "corpus" / shard.path).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                    raise SystemExit(f"dvc pull gave other bytes for {shard.path}")


def compare(server: S3Server, folder: Path, count: int) -> dict[str, Any]:
    """Both sides in turns over the same files."""
    files = folder / f"files-{count}"
    make_files(files, count)
    tasks = {
        OURS: partial(in_scratch, publish_ours, server, files),
        "dvc": partial(in_scratch, publish_dvc, server, files),
    }
    rates = rates_in_turns(tasks, count, TURNS[count])
    read_back(server, files)
    return {"recordings": count, "dvc_pull_reads_it_back": True} | compared(rates, 1)


def main() -> None:
    """Print one line a size, then the figure as JSON."""
    with (
        tempfile.TemporaryDirectory(prefix="interloom-bench-") as folder,
        s3_server(Path(folder) / "server") as server,
    ):
        configs = [compare(server, Path(folder), count) for count in TURNS]
    show("publish", "recordings/s", configs)


if __name__ == "__main__":
    main()
