"""The catalog at scale: 10^5 versions, 10^6 shard edges, on SQLite and on PostgreSQL.

Times each query and one publish transaction of the product's own catalog, median of many, beside
its target, which is for ten times as many: ``--versions 1000000 --edges 10000000`` (filling then
takes longer than five minutes, and 10 GB of disk). ``--backends`` chooses the databases; a
PostgreSQL server is started for it where Debian's programs are installed.
"""

# ruff: noqa: S608 - the statements are made of our own words

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from interloom.adapters.sql_catalog import SqlCatalog, migrate
from interloom.core.artifacts import ArtifactKind, Manifest, Shard
from interloom.core.errors import MissingError
from interloom.core.ids import new_run_id
from interloom.ports.catalog import Lease, Metric, Publication, RunStart
from interloom.testing.postgres_server import postgres_server

TARGETS_MS = {
    "look-up by key": 5.0,
    "named version": 5.0,
    "run by the beginning of its id": 5.0,
    "models that contain a shard": 200.0,
    "publish transaction": 50.0,
}
ASKED = 60  # times each
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB"}  # of PostgreSQL; it syncs
CHAIN = 10  # artifacts from a corpus to a model


def main() -> None:
    """Fill, time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=100_000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--backends", nargs="+", default=["sqlite", "postgres"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    configs = []
    with tempfile.TemporaryDirectory(prefix="interloom-scale-", dir=options.folder) as name:
        for backend in options.backends:
            with database(backend, Path(name)) as url:
                if url is None:
                    print(f"{backend}: not installed, left out")
                    continue
                configs += measure(backend, url, options.versions, options.edges)
    worst = min(config["target_ms"] / config["interloom"]["median"] for config in configs)
    figure = {"figure": "catalog_scale", "unit": "ms", "configs": configs, "ratio": round(worst, 2)}
    print(json.dumps(figure))


@contextmanager
def database(backend: str, folder: Path) -> Iterator[str | None]:
    """The URL of an empty database; None where it is not installed."""
    if backend == "sqlite":
        yield f"sqlite:///{folder / 'catalog.sqlite'}"
        return
    folder.chmod(0o755)  # for the account that the server runs as
    url = None
    with ExitStack() as stack:
        with suppress(MissingError):
            url = stack.enter_context(postgres_server(folder, SETTINGS)).url
        yield url


def digest(number: int) -> str:
    """The id of artifact or key ``number``, the same in Python and in both databases."""
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest() * 2


def measure(backend: str, url: str, num_versions: int, num_edges: int) -> list[dict[str, Any]]:
    """Fill the catalog, then time what the product asks of it."""
    migrate(url)
    started_s = time.perf_counter()
    fill(url, num_versions, num_edges)
    size = f"{num_versions:,} versions, {num_edges:,} shards"
    print(f"{backend}: filled with {size} in {time.perf_counter() - started_s:.0f} s")
    catalog = SqlCatalog.connect(url)
    per_artifact = num_edges // num_versions
    numbers = [(7919 * index) % num_versions for index in range(200)]
    asked = iter(numbers * 50)
    timed: dict[str, Callable[[], object]] = {
        "look-up by key": lambda: catalog.find(digest(next(asked))),
        "named version": lambda: catalog.dataset(f"recipe{next(asked)}/mix.rows"),
        "run by the beginning of its id": lambda: catalog.run(run_id(next(asked))[:20]),
        "models that contain a shard": lambda: models_with(
            catalog, shard_sha(next(asked) // CHAIN * CHAIN, per_artifact - 1)
        ),
    }
    times: dict[str, list[float]] = {
        name: [time_ms(ask) for _ in range(ASKED)] for name, ask in timed.items()
    }
    times["publish transaction"] = [
        time_ms(partial(catalog.publish, *begun(catalog))) for _ in range(ASKED)
    ]
    configs = []
    for name, taken in times.items():
        times_ms = sorted(taken)
        median = statistics.median(times_ms)
        configs.append(
            {
                "what": f"{backend}: {name}",
                "size": size,
                "interloom": {
                    "median": round(median, 3),
                    "p95": round(times_ms[ASKED * 95 // 100], 3),
                },
                "target_ms": TARGETS_MS[name],
            }
        )
        print(f"{backend}: {name}: {median:.2f} ms, target {TARGETS_MS[name]:.0f} ms")
    catalog.close()
    return configs


def time_ms(ask: Callable[[], object]) -> float:
    """How long one call takes."""
    started_s = time.perf_counter()
    ask()
    return (time.perf_counter() - started_s) * 1000


def run_id(number: int) -> str:
    """The id of run ``number``."""
    head = digest(number)
    return f"{head[:8]}-{head[8:12]}-{head[12:16]}-{head[16:20]}-{head[20:32]}"


def shard_sha(artifact: int, index: int) -> str:
    """The sha256 that stands for the bytes of one shard."""
    return digest(artifact * 1000 + index)


def models_with(catalog: SqlCatalog, sha256: str) -> int:
    """Which models contain a shard; there is one at the end of each chain."""
    models = [ref for ref in catalog.descendants(catalog.with_shard(sha256)) if ref.kind.is_model]
    assert len(models) == 1
    return len(models)


def begun(catalog: SqlCatalog) -> tuple[Lease, Publication]:
    """A stage that is ready to publish two artifacts of eight shards and forty metrics."""
    key = new_run_id().replace("-", "") * 2
    lease = catalog.acquire(key, "benchmark", ttl_s=60)
    assert lease is not None
    run = new_run_id()
    catalog.start_run(RunStart(run, "mix", "benchmark", stage_key=key))
    manifests = [manifest(f"{run}/{name}") for name in ("rows", "report")]
    publication = Publication(
        run,
        "{}",
        {},
        {"rows": manifests[0].ref, "report": manifests[1].ref},
        manifests,
        metrics=[Metric(f"metric{index}", 0.5, index) for index in range(40)],
    )
    return lease, publication


def manifest(name: str) -> Manifest:
    """An artifact of eight shards."""
    shards = []
    for index in range(8):
        sha256 = hashlib.sha256(f"{name}/{index}".encode()).hexdigest()
        shards.append(Shard(f"rows/{index:05d}", sha256, sha256[:32], 100, {"rows": 3}))
    return Manifest(ArtifactKind.PACKED_ROWS, tuple(shards), (), ("CC0-1.0",))


def fill(url: str, num_versions: int, num_edges: int) -> None:
    """Rows made by the database itself: a run, a result, an artifact, a version each.

    Artifacts form chains of ten, the last of which is a model.
    """
    engine = sa.create_engine(url)
    is_sqlite = engine.dialect.name == "sqlite"
    if is_sqlite:
        sa.event.listen(
            engine,
            "connect",
            lambda raw, _: (
                raw.create_function(
                    "md5",
                    1,
                    lambda text: hashlib.md5(text.encode()).hexdigest(),  # noqa: S324
                ),
                raw.execute("PRAGMA synchronous = OFF"),
                raw.execute("PRAGMA journal_mode = WAL"),
                raw.execute("PRAGMA cache_size = -800000"),
            ),
        )
    per_artifact = num_edges // num_versions
    with engine.begin() as connection:
        statements = filling(num_versions, per_artifact, is_sqlite=is_sqlite)
        for statement in statements if is_sqlite else unhindered(connection, statements):
            connection.exec_driver_sql(statement)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    engine.dispose()


def unhindered(connection: sa.Connection, statements: Iterator[str]) -> Iterator[str]:
    """The statements, with foreign keys not looked up and the indexes made at the end."""
    indexes = connection.exec_driver_sql(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() "
        "AND indexname LIKE 'ix\\_%%'"
    ).all()
    yield "SET LOCAL session_replication_role = replica"
    yield "SET LOCAL maintenance_work_mem = '1GB'"
    yield from (f"DROP INDEX {name}" for name, _ in indexes)
    yield from statements
    yield from (definition for _, definition in indexes)


def filling(num_versions: int, per_artifact: int, *, is_sqlite: bool) -> Iterator[str]:
    """The statements that fill the tables."""

    def series(stop: int) -> str:
        if not is_sqlite:
            return f"(SELECT generate_series(0, {stop - 1}) AS n) AS s"
        return (
            f"(WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < {stop - 1})"
            " SELECT n FROM c) AS s"
        )

    def text(number: str) -> str:
        return f"CAST({number} AS TEXT)"

    def key(number: str) -> str:
        return f"(md5({text(number)}) || md5({text(number)}))"

    def uuid(number: str) -> str:
        parts = [f"substr(md5({text(number)}), {a}, {b})" for a, b in UUID_PARTS]
        return "(" + " || '-' || ".join(parts) + ")"

    def rest(divisor: int) -> str:
        return f"(n - n / {divisor} * {divisor})"

    every = series(num_versions)
    yield "INSERT INTO job (id, namespace, name) VALUES (1, 'interloom', 'stage')"
    yield (
        "INSERT INTO run (id, job_id, recipe, stage_key, request_json, state, started_at) "
        f"SELECT {uuid('n')}, 1, 'recipe', {key('n')}, '{{}}', 'complete', '2026' FROM {every}"
    )
    yield (
        "INSERT INTO stage_result (stage_key, run_id, result_json) "
        f"SELECT {key('n')}, {uuid('n')}, '{{}}' FROM {every}"
    )
    kind = f"CASE WHEN {rest(CHAIN)} = {CHAIN - 1} THEN 'language_model' ELSE 'packed_rows' END"
    yield (
        "INSERT INTO artifact (id, kind, manifest_json, num_bytes, counts_json, producer_run_id, "
        f"published_at) SELECT {key('n')}, {kind}, '{{}}', 1, '{{}}', {uuid('n')}, '2026' "
        f"FROM {every}"
    )
    yield (
        "INSERT INTO run_output (run_id, name, artifact_id) "
        f"SELECT {uuid('n')}, 'rows', {key('n')} FROM {every}"
    )
    yield (
        "INSERT INTO artifact_parent (artifact_id, parent_id) "
        f"SELECT {key('n')}, {key('n - 1')} FROM {every} WHERE {rest(CHAIN)} <> 0"
    )
    yield (
        "INSERT INTO dataset (id, namespace, name, type) SELECT n + 1, 'interloom', "
        f"'recipe' || {text('n')} || '/mix.rows', 'DATASET' FROM {every}"
    )
    yield (
        "INSERT INTO dataset_version (dataset_id, version, artifact_id, run_id, published_at) "
        f"SELECT n + 1, 1, {key('n')}, {uuid('n')}, '2026' FROM {every}"
    )
    edges = series(num_versions * per_artifact)
    artifact, index = f"(n / {per_artifact})", rest(per_artifact)
    yield (
        "INSERT INTO shard (artifact_id, path, sha256, md5, num_bytes) "
        f"SELECT {key(artifact)}, 'rows/' || {text(index)}, "
        f"{key(f'{artifact} * 1000 + {index}')}, md5({text('n')}), 1 FROM {edges}"
    )
    if not is_sqlite:
        yield "SELECT setval('dataset_id_seq', (SELECT max(id) FROM dataset))"
        yield "SELECT setval('job_id_seq', 10)"


UUID_PARTS = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))


if __name__ == "__main__":
    main()
