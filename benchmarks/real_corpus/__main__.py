"""Interleave a real English corpus: speed, memory, and every row rebuilt.

    python benchmarks/real_corpus                            # three dictionaries, 1.2 million words
    python benchmarks/real_corpus --packages dict-gcide      # 5.4 million words
    python benchmarks/real_corpus --gigabytes 1 --workers 2  # the same text again and again

The text is fetched from Debian's archive with ``apt-get download`` and never installed. It goes the
way of any corpus: ``ingest``, units, spans, weaving, checks, shards of an artifact. Only synthesis
is left out: a stand-in gives each span codes by its letters, so that what is measured is all that
happens around the model. Prints one JSON object.
"""

import argparse
import gzip
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from interloom.adapters.folder_store import FolderStore
from interloom.adapters.gx_gate import GreatExpectationsGate
from interloom.config.corpora import TakeIn
from interloom.config.interleaving import InterleavingConfig, QualityLimits
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.corpora.fan_out import Make, make_units
from interloom.corpora.ingest_text import ingest_text
from interloom.corpora.interleaved import rebuild
from interloom.corpora.tables import read_table
from interloom.interleaving.judging import ShardJudge
from interloom.interleaving.making import UnitMaker, is_made
from interloom.interleaving.policies import Poisson
from interloom.interleaving.sampling import SpanRule
from interloom.interleaving.speaking import Synthesised
from interloom.interleaving.units import Corpus, Taking
from interloom.interleaving.weaving import Provenance, Weaver
from interloom.interleaving.writing import Written, write_shards
from interloom.ports.progress import NoProgress
from interloom.quality.interleaved import AlignmentCheck, Target
from interloom.quality.shards import Natural
from interloom.text.bpe import TextTokenizer
from interloom.text_to_token.guards import longest, refuse_codes, refuse_text, spoken_words
from interloom.text_to_token.spans import SpanRequest, SpanResult
from interloom.vocabulary.layout import VocabularyLayout

NUM_CODES = 512
TRAINED_ON = 2000  # documents that the text tokenizer learns from
CODES_PER_WORD = 4.5


class LetterSpeaker:
    """Codes by letters, under the guards that a model's codes meet."""

    def __init__(self, config: InterleavingConfig) -> None:
        self._limits = config.synthesis

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        """One result a span, in order."""
        return [self._speak(span) for span in spans]

    def _speak(self, span: SpanRequest) -> SpanResult:
        none = np.zeros(0, np.int32)
        refusal = refuse_text(span.text, self._limits)
        if refusal is not None:
            return SpanResult(span.span_id, none, refusal.value, attempts=0)
        letters = np.frombuffer(span.text.encode(), np.uint8).astype(np.int32)
        said = math.ceil(CODES_PER_WORD * spoken_words(span.text))
        size = min(max(said, len(letters)), longest(span.text, self._limits))
        codes = ((np.resize(letters, size) * 7 + np.arange(size) // 5) % NUM_CODES).astype(np.int32)
        refusal = refuse_codes(span.text, codes, ended=True, config=self._limits)
        if refusal is not None:
            return SpanResult(span.span_id, none, refusal.value, attempts=3)
        return SpanResult(span.span_id, codes, reason="", attempts=1)


def found(program: str) -> str:
    """Where a program is.

    Raises:
        SystemExit: Nowhere; it is Debian's.
    """
    path = shutil.which(program)
    if path is None:
        raise SystemExit(f"{program} is not there: this needs a Debian system")
    return path


def fetch(packages: Sequence[str], folder: Path) -> list[Path]:
    """The texts of dictionaries of Debian.

    Raises:
        SystemExit: A package cannot be fetched, or holds no dictionary.
    """
    for package in packages:
        done = subprocess.run(
            [found("apt-get"), "download", package], cwd=folder, check=False, capture_output=True
        )
        if done.returncode:
            raise SystemExit(f"{package} cannot be fetched: {done.stderr.decode().strip()}")
    for archive in sorted(folder.glob("*.deb")):
        subprocess.run([found("dpkg-deb"), "-x", archive, folder / "root"], check=True)
    texts = []
    for dictionary in sorted((folder / "root").rglob("*.dict.dz")):
        texts.append(folder / dictionary.name.replace(".dict.dz", ".txt"))
        with gzip.open(dictionary) as packed, texts[-1].open("wb") as text:
            shutil.copyfileobj(packed, text)
    if not texts:
        raise SystemExit(f"no dictionary (*.dict.dz) in {', '.join(packages)}")
    return texts


def lay_out(texts: Sequence[Path], corpus: Path, num_bytes: int) -> None:
    """Copies of the texts, as many as it takes; each file has a name of its own."""
    corpus.mkdir()
    held = number = 0
    while held < max(1, num_bytes):
        for text in texts:
            shutil.copyfile(text, corpus / f"{number:03d}-{text.name}")
            held += text.stat().st_size
        number += 1


class Memory:
    """Looks at this process's memory after each shard."""

    def __init__(self) -> None:
        self.megabytes: list[float] = []

    def update(self, done: int, total: int | None, note: str = "") -> None:  # noqa: ARG002
        """A shard is written."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.megabytes.append(pages * resource.getpagesize() / 1e6)

    def growth(self) -> float | None:
        """Megabytes a shard over the second half of the run; None for a few shards."""
        late = self.megabytes[len(self.megabytes) // 2 :]
        if len(late) < 4:
            return None
        return round(float(np.polyfit(range(len(late)), late, 1)[0]), 3)


def interleave(
    store: FolderStore,
    text: ArtifactRef,
    tokenizer: TextTokenizer,
    work: Path,
    workers: int,
    memory: Memory,
) -> tuple[ArtifactRef, Written]:
    """All that the stage does, but for the model."""
    config = InterleavingConfig(quality=QualityLimits(max_refused=0.9, max_quarantined=0.5))
    layout = VocabularyLayout(tokenizer.vocab_size, NUM_CODES, "a" * 64, "b" * 64)
    policy = Poisson("poisson-1", SpanRule(0.3, 10, 41))
    made = Provenance("poisson-1", "letters", layout.tokenizer, 0, "fp32", "letters")
    corpus = Corpus(
        store, text, "documents", Taking(1, 0, None, config.documents_per_shard, config.shard_bytes)
    )
    work.mkdir()

    def build() -> Make:
        maker = UnitMaker(
            config=config,
            source=Synthesised(LetterSpeaker(config)),
            policy=policy,
            weaver=Weaver(tokenizer, layout, made),
            text_tokenizer=tokenizer,
            contamination=None,
            natural=Natural(CODES_PER_WORD),
            judge=None,
            seed=0,
        )
        return lambda unit: maker.make(corpus.read(unit), unit, work)

    origin: dict[str, str | int] = {"made_by": "letters", "tokenizer": layout.tokenizer}
    check = AlignmentCheck(tokenizer, layout, config.synthesis, Target(0.3), origin)
    units = make_units(
        corpus.units(), build, is_made=lambda one: is_made(work / one.name), num_workers=workers
    )
    with store.draft(ArtifactKind.INTERLEAVED) as draft:
        judge = ShardJudge(GreatExpectationsGate(), check, config.quality)
        written = write_shards(units, work, judge, draft, memory)
        return draft.commit(parents=[text], licences=sorted(written.licences)), written


def rebuilt(store: FolderStore, ref: ArtifactRef, tokenizer: TextTokenizer) -> int:
    """Rows that give back their text byte for byte.

    Raises:
        SystemExit: One does not.
    """
    number = 0
    for table in ("interleaved", "quarantine"):
        for row in read_table(store, ref, table):
            if rebuild(row, tokenizer) != row["text"]:
                raise SystemExit(f"row {row['id']} is not rebuilt")
            number += 1
    return number


def peak_megabytes(who: int) -> int:
    """The largest resident memory of this process, or of one of its children."""
    return resource.getrusage(who).ru_maxrss // 1024


def cpu_seconds() -> float:
    """Of this process and of children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def run(packages: Sequence[str], num_bytes: int, workers: int, folder: Path) -> dict[str, object]:
    """Everything, once."""
    lay_out(fetch(packages, folder), folder / "corpus", num_bytes)
    store = FolderStore(folder / "store")
    started = cpu_seconds()
    taken = ingest_text(
        folder / "corpus", TakeIn(name="english"), store=store, progress=NoProgress()
    )
    ingested = cpu_seconds()
    shutil.rmtree(folder / "corpus")
    documents = islice(read_table(store, taken.corpus, "documents"), TRAINED_ON)
    tokenizer = TextTokenizer.train((row["text"] for row in documents), vocab_size=8000)
    before, began = cpu_seconds(), time.perf_counter()
    memory = Memory()
    ref, written = interleave(store, taken.corpus, tokenizer, folder / "work", workers, memory)
    after, ended = cpu_seconds(), time.perf_counter()
    words = written.held.words
    return {
        "packages": list(packages),
        "bytes_of_text": sum(
            len(row["text"].encode()) for row in read_table(store, taken.corpus, "documents")
        ),
        "documents": written.tally.documents,
        "refused_at_ingest": taken.refused,
        "words_of_rows": words,
        "word_ratio": round(written.held.spoken_words / max(1, words), 4),
        "left_out": dict(written.tally.left_out),
        "outcomes": dict(written.tally.outcomes),
        "rows": written.held.rows,
        "rows_in_quarantine": written.left_out,
        "rows_rebuilt": rebuilt(store, ref, tokenizer),
        "checks_that_do_not_hold": [one.expectation for one in written.checks if not one.success],
        "workers": workers,
        "words_per_cpu_second": round(words / (after - before)),
        "words_per_second": round(words / (ended - began)),
        "ingest_cpu_seconds": round(ingested - started, 1),
        "shards": len(memory.megabytes),
        "megabytes_a_shard": memory.growth(),
        "peak_megabytes": peak_megabytes(resource.RUSAGE_SELF),
        "peak_megabytes_of_a_worker": peak_megabytes(resource.RUSAGE_CHILDREN),
        "artifact": ref.id,
    }


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(prog="benchmarks/real_corpus", description=__doc__)
    parser.add_argument(
        "--packages", nargs="+", default=["dict-foldoc", "dict-jargon", "dict-devil"]
    )
    parser.add_argument("--gigabytes", type=float, default=0.0, help="copy the text up to so much")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        num_bytes = int(options.gigabytes * 1e9)
        figures = run(options.packages, num_bytes, options.workers, Path(folder))
    json.dump(figures, sys.stdout)
    print()


if __name__ == "__main__":
    main()
