"""Take data down: find all that it touched, and keep later runs from reading it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError, MissingError
from interloom.corpora.permission import BlockList
from interloom.ports.catalog import Block, BlockKind, Catalog, Checkpoint
from interloom.ports.store import ArtifactStore

_TABLES: Mapping[ArtifactKind, str] = {
    ArtifactKind.SPEECH_CORPUS: "utterances",
    ArtifactKind.TEXT_CORPUS: "documents",
    ArtifactKind.DIALOGUE_CORPUS: "dialogues",
}
_COLUMNS = ("source", "speaker", "licence")


@dataclass(frozen=True, slots=True)
class TouchedShard:
    """A shard of a corpus that holds rows of what is taken down."""

    artifact: ArtifactRef
    path: str
    num_rows: int


@dataclass(frozen=True, slots=True)
class Touched:
    """All that something to be taken down has touched.

    Attributes:
        shards: The corpora's shards that hold its rows, with how many.
        artifacts: Those corpora and everything that was made from them, models included.
        models: The models among them.
        checkpoints: Each model with the step of training that gave it.
        run_ids: The runs that read any of these, in order.
        names: Named versions of these, as ``name@version``.
        unread: Corpora whose bytes are not in the store, so that their rows could not be looked at;
            they count as touched.
    """

    shards: tuple[TouchedShard, ...]
    artifacts: tuple[ArtifactRef, ...]
    models: tuple[ArtifactRef, ...]
    checkpoints: tuple[Checkpoint, ...]
    run_ids: tuple[str, ...]
    names: tuple[str, ...]
    unread: tuple[ArtifactRef, ...]


def parse_selector(text: str) -> tuple[BlockKind, str]:
    """Read ``source:NAME``, ``speaker:ID`` or ``licence:SPDX``.

    Raises:
        ConfigError: It is none of these.
    """
    kind, colon, value = text.partition(":")
    if not colon or not value or kind not in set(BlockKind):
        kinds = ", ".join(f"{kind}:ID" for kind in BlockKind)
        raise ConfigError(f"what is taken down is one of {kinds}; got {text!r}")
    return BlockKind(kind), value


def find_touched(catalog: Catalog, store: ArtifactStore, entry: str) -> Touched:
    """Look through the rows of every published corpus, then follow lineage from those that match.

    A corpus is touched if a row of it matches; anything else if something it was made from is. So a
    model that was trained on tokens of a tokenizer that heard the speaker counts as touched too.
    """
    blocked = BlockList.of([entry])
    shards, unread, clean = list[TouchedShard](), list[ArtifactRef](), set[ArtifactRef]()
    for corpus in _corpora(catalog):
        try:
            found = list(_touched_shards(store, corpus, blocked))
        except (MissingError, DataError):
            unread.append(corpus)
            continue
        shards += found
        if not found:
            clean.add(corpus)
    roots = list(dict.fromkeys([*(shard.artifact for shard in shards), *unread]))
    artifacts = sorted({*roots, *_made_from(catalog, roots, clean)})
    models = [ref for ref in artifacts if ref.kind.is_model]
    return Touched(
        shards=tuple(shards),
        artifacts=tuple(artifacts),
        models=tuple(models),
        checkpoints=tuple(point for model in models for point in catalog.checkpoints(model)),
        run_ids=tuple(sorted({run for ref in artifacts for run in catalog.consumers(ref)})),
        names=tuple(f"{held.name}@{held.version}" for held in catalog.names(artifacts)),
        unread=tuple(unread),
    )


def take_down(catalog: Catalog, touched: Touched, block: Block) -> None:
    """Put it on the block list, with what it touched in the audit."""
    detail = {
        "shards": [f"{shard.artifact.id}/{shard.path}" for shard in touched.shards],
        "models": [model.id for model in touched.models],
        "runs": list(touched.run_ids),
        "rows": sum(shard.num_rows for shard in touched.shards),
    }
    catalog.block([block], detail)


def _corpora(catalog: Catalog) -> Iterator[ArtifactRef]:
    """Every published corpus."""
    after = ""
    while batch := catalog.artifacts(after=after):
        after = batch[-1].id
        yield from (ref for ref in batch if ref.kind in _TABLES)


def _touched_shards(
    store: ArtifactStore, corpus: ArtifactRef, blocked: BlockList
) -> Iterator[TouchedShard]:
    """The shards of a corpus that hold a row of what is blocked; reads three columns of each."""
    import pyarrow.parquet as pq

    for shard in store.manifest(corpus).shards_under(f"{_TABLES[corpus.kind]}/"):
        with pq.ParquetFile(store.local_path(shard)) as file:
            columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
            batches = file.iter_batches(columns=columns)
            rows = (row for batch in batches for row in batch.to_pylist())
            num_rows = sum(blocked.entry_for(row) is not None for row in rows)
        if num_rows:
            yield TouchedShard(corpus, shard.path, num_rows)


def _made_from(
    catalog: Catalog, roots: Sequence[ArtifactRef], clean: set[ArtifactRef]
) -> set[ArtifactRef]:
    """What was made from these; a corpus without a matching row passes nothing on."""
    found, open_refs = set[ArtifactRef](), list(roots)
    while open_refs:
        children = catalog.children(open_refs)
        open_refs = [ref for ref in children if ref not in clean and ref not in found]
        found |= set(open_refs)
    return found
