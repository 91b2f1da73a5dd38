"""What every catalog keeps, on SQLite and on PostgreSQL."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from interloom import adapters
from interloom.adapters.catalog import tables as catalog_tables
from interloom.adapters.sql_catalog import SqlCatalog, migrate
from interloom.core.artifacts import ArtifactKind, ArtifactRef, Manifest, Shard
from interloom.core.errors import ConfigError, LeaseLostError, MissingError
from interloom.core.ids import new_run_id
from interloom.ports.catalog import (
    Block,
    BlockKind,
    Checkpoint,
    Lease,
    Metric,
    MixtureComponent,
    Publication,
    RunStart,
    RunState,
    StageHit,
    Usage,
)
from interloom.ports.gate import CheckResult

KEY = "1" * 64
OTHER = "2" * 64
_OLD_RUN = (
    "INSERT INTO run (id, job_id, recipe, code_digest, request_json, state, started_at) "
    "VALUES ('r1', 1, 'tiny', 'c0de', '{}', 'complete', '2026-01-01')"
)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    server = request.getfixturevalue("postgres")
    return str(
        server.new_database(f"c{hashlib.sha256(request.node.name.encode()).hexdigest()[:16]}")
    )


@pytest.fixture
def catalog(url: str) -> Iterator[SqlCatalog]:
    migrate(url)
    catalog = SqlCatalog.connect(url)
    yield catalog
    catalog.close()


def manifest_of(
    text: str, kind: ArtifactKind = ArtifactKind.TEXT_CORPUS, parents: tuple[ArtifactRef, ...] = ()
) -> Manifest:
    digest = hashlib.sha256(text.encode()).hexdigest()
    shard = Shard("rows.bin", digest, digest[:32], len(text), {"rows": 3})
    return Manifest(kind, (shard,), parents, ("CC0-1.0",), {"seed": 7})


def take(catalog: SqlCatalog, key: str = KEY, owner: str = "me") -> Lease:
    lease = catalog.acquire(key, owner, ttl_s=60)
    assert lease is not None
    return lease


def publish(
    catalog: SqlCatalog,
    lease: Lease,
    outputs: Mapping[str, Manifest],
    *,
    stage: str = "mix",
    inputs: Mapping[str, ArtifactRef] | None = None,
    parent_run_id: str | None = None,
) -> str:
    run_id = new_run_id()
    catalog.start_run(
        RunStart(run_id, stage, "tiny", parent_run_id, lease.stage_key, '{"a": 1}', "c0de")
    )
    catalog.publish(
        lease,
        Publication(
            run_id,
            result_json='{"b": 2}',
            inputs=inputs or {},
            outputs={name: manifest.ref for name, manifest in outputs.items()},
            manifests=tuple(outputs.values()),
            metrics=(Metric("loss", 2.5, 1), Metric("loss", 1.5, 2), Metric("wer", 0.1)),
            checks=(CheckResult("spans", "are disjoint", success=True, observed="all"),),
            usage=Usage(1.5, 2.5, 1024),
        ),
    )
    return run_id


def test_nothing_is_found_before_it_is_published(catalog: SqlCatalog) -> None:
    lease = take(catalog)
    catalog.start_run(RunStart(new_run_id(), "mix", "tiny", stage_key=KEY))

    assert catalog.find(KEY) is None

    run_id = publish(catalog, lease, {"rows": manifest_of("rows")})
    hit = catalog.find(KEY)
    assert hit == StageHit(KEY, run_id, '{"b": 2}', {"rows": manifest_of("rows").ref})


def test_a_publication_shows_in_every_query(catalog: SqlCatalog) -> None:
    corpus = manifest_of("corpus")
    source = new_run_id()
    catalog.start_run(RunStart(source, "ingest", "own"))
    catalog.publish_dataset("own/text", corpus, source)
    catalog.end_run(source, RunState.COMPLETE)

    rows = manifest_of("rows", ArtifactKind.PACKED_ROWS, (corpus.ref,))
    run_id = publish(catalog, take(catalog), {"rows": rows}, inputs={"text": corpus.ref})

    record = catalog.run(run_id[:30])
    assert (record.job, record.recipe, record.state) == ("mix", "tiny", RunState.COMPLETE)
    assert (record.usage, record.code_digest) == (Usage(1.5, 2.5, 1024), "c0de")
    assert record.ended_at is not None
    assert catalog.metrics(run_id)[1] == Metric("loss", 1.5, 2)
    assert catalog.checks(rows.ref)[0].expectation == "are disjoint"
    assert catalog.producer(rows.ref) == run_id
    assert catalog.producer(corpus.ref) == source
    assert catalog.consumers(corpus.ref) == [run_id]
    assert catalog.facts(rows.ref) == {"seed": 7}
    edges = {(edge.name, edge.is_output): edge.artifact for edge in catalog.edges([run_id])}
    assert edges == {("text", False): corpus.ref, ("rows", True): rows.ref}
    version = catalog.dataset("tiny/mix.rows")
    assert (version.version, version.ref, version.licences) == (1, rows.ref, ("CC0-1.0",))
    assert version.counts == {"rows": 3}
    assert {held.name for held in catalog.datasets()} == {"own/text", "tiny/mix.rows"}


@pytest.mark.parametrize("name", ["../x", "a/../b", "a//b", "", ".", "x" * 300, "a\nb"])
def test_a_name_that_cannot_be_used_is_refused_before_any_work(
    catalog: SqlCatalog, name: str
) -> None:
    with pytest.raises(ConfigError, match="cannot be used: a name has at most 200"):
        catalog.start_run(RunStart(new_run_id(), "ingest_text", name))
    run_id = new_run_id()
    catalog.start_run(RunStart(run_id, "ingest_text", "mine"))
    with pytest.raises(ConfigError, match="cannot be used"):
        catalog.publish_dataset(name, manifest_of("x"), run_id)

    assert catalog.datasets() == []


def test_versions_count_new_content_only(catalog: SqlCatalog) -> None:
    first, second = manifest_of("first"), manifest_of("second")

    publish(catalog, take(catalog, "a" * 64), {"rows": first})
    publish(catalog, take(catalog, "b" * 64), {"rows": second})
    publish(catalog, take(catalog, "c" * 64), {"rows": first})

    assert catalog.dataset("tiny/mix.rows").ref == second.ref
    assert catalog.dataset("tiny/mix.rows", 1).ref == first.ref
    assert len(catalog.datasets()) == 2


def test_a_hit_is_a_run_with_the_metrics_of_the_original(catalog: SqlCatalog) -> None:
    corpus = manifest_of("corpus")
    publish(catalog, take(catalog, OTHER), {"text": corpus}, stage="ingest")
    publish(catalog, take(catalog), {"rows": manifest_of("rows")}, inputs={"text": corpus.ref})
    hit = catalog.find(KEY)
    assert hit is not None

    again = new_run_id()
    catalog.record_hit(RunStart(again, "mix", "other", stage_key=KEY), hit, {"text": corpus.ref})

    record = catalog.run(again)
    assert (record.is_cache_hit, record.state) == (True, RunState.COMPLETE)
    assert [metric.value for metric in catalog.metrics(again)] == [2.5, 1.5, 0.1]
    assert catalog.results(again) == catalog.results(hit.run_id) == [Metric("wer", 0.1)]
    assert len(catalog.edges([again])) == 2
    assert catalog.dataset("other/mix.rows").ref == manifest_of("rows").ref
    assert catalog.consumers(corpus.ref) == [hit.run_id, again]


def test_a_lease_has_one_owner_and_a_growing_fence(catalog: SqlCatalog) -> None:
    first = take(catalog, owner="first")

    assert catalog.acquire(KEY, "second", ttl_s=60) is None
    assert catalog.leased(ttl_s=60) == {KEY}
    catalog.release(first)
    assert catalog.leased(ttl_s=60) == frozenset()
    second = catalog.acquire(KEY, "second", ttl_s=60)

    assert second == Lease(KEY, "second", 2)


def test_an_owner_known_to_be_dead_loses_its_lease_at_once(catalog: SqlCatalog) -> None:
    assert catalog.lease_owner(KEY) is None
    take(catalog, owner="first")
    assert catalog.lease_owner(KEY) == "first"

    assert catalog.acquire(KEY, "second", ttl_s=60, dead_owner="other") is None
    assert catalog.acquire(KEY, "second", ttl_s=60, dead_owner="first") == Lease(KEY, "second", 2)


def test_a_silent_owner_loses_its_lease_and_publishes_nothing(catalog: SqlCatalog) -> None:
    slow = take(catalog, owner="slow")
    stolen = catalog.acquire(KEY, "quick", ttl_s=0)
    assert stolen is not None

    with pytest.raises(LeaseLostError, match="another runner took over stage key 111111111111"):
        catalog.renew(slow)
    with pytest.raises(LeaseLostError, match="fence 1"):
        publish(catalog, slow, {"rows": manifest_of("slow")})

    assert catalog.find(KEY) is None
    assert catalog.producer(manifest_of("slow").ref) is None
    assert catalog.datasets() == []
    catalog.release(slow)  # must not free the other's lease
    publish(catalog, stolen, {"rows": manifest_of("quick")})


def test_of_many_runners_at_once_one_gets_the_lease(catalog: SqlCatalog) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(
            pool.map(lambda owner: catalog.acquire(KEY, f"runner-{owner}", ttl_s=60), range(16))
        )

    assert sum(lease is not None for lease in taken) == 1


def test_the_run_of_a_dead_runner_is_closed_by_the_next(catalog: SqlCatalog) -> None:
    dead, alive = new_run_id(), new_run_id()
    catalog.start_run(RunStart(dead, "mix", "tiny", stage_key=KEY))

    catalog.start_run(RunStart(alive, "mix", "tiny", stage_key=KEY))

    assert (catalog.run(dead).state, catalog.run(dead).error) == (
        RunState.ABORTED,
        "its runner died",
    )
    assert catalog.run(alive).state is RunState.RUNNING


def test_runs_of_the_dead_are_closed_and_those_of_the_living_are_not(catalog: SqlCatalog) -> None:
    pipelines = {name: new_run_id() for name in ("dead", "alive")}
    stages = {name: new_run_id() for name in ("dead", "alive")}
    take(catalog, KEY)
    for name, key in (("dead", OTHER), ("alive", KEY)):
        catalog.start_run(RunStart(pipelines[name], "pipeline", "tiny"))
        catalog.start_run(RunStart(stages[name], "mix", "tiny", pipelines[name], key))

    young = catalog.close_dead_runs(ttl_s=60, grace_s=3600)
    old = catalog.close_dead_runs(ttl_s=60, grace_s=-1)

    assert (young, old) == (1, 1)
    for runs in (pipelines, stages):
        assert catalog.run(runs["dead"]).state is RunState.ABORTED
        assert catalog.run(runs["alive"]).state is RunState.RUNNING


def test_runs_show_pipelines_and_their_stages(catalog: SqlCatalog) -> None:
    first, second = new_run_id(), new_run_id()
    catalog.start_run(RunStart(first, "pipeline", "tiny"))
    catalog.start_run(RunStart(second, "pipeline", "tiny"))
    lease = take(catalog)
    stage = publish(catalog, lease, {"rows": manifest_of("rows")}, parent_run_id=first)
    catalog.end_run(first, RunState.FAILED, "stage 'sft' failed")

    assert [run.run_id for run in catalog.runs()] == [second, first]
    assert [run.run_id for run in catalog.runs(parent_run_id=first)] == [stage]
    assert catalog.run(first).error == "stage 'sft' failed"
    last = catalog.last_run("mix", "tiny")
    assert last is not None
    assert last.run_id == stage
    assert catalog.last_run("sft", "tiny") is None


def test_an_ended_run_stays_as_it_ended(catalog: SqlCatalog) -> None:
    run_id = publish(catalog, take(catalog), {"rows": manifest_of("rows")})

    catalog.end_run(run_id, RunState.FAILED, "too late")

    assert catalog.run(run_id).state is RunState.COMPLETE


def test_what_is_not_there_is_said_with_the_nearest(catalog: SqlCatalog) -> None:
    with pytest.raises(MissingError, match="nothing is published yet"):
        catalog.dataset("tiny/mix.rows")
    run_id = publish(catalog, take(catalog), {"rows": manifest_of("rows")})
    other = new_run_id()
    catalog.start_run(RunStart(other, "mix", "tiny"))

    with pytest.raises(MissingError, match=r"the nearest are tiny/mix\.rows"):
        catalog.dataset("tiny/mix.row")
    with pytest.raises(MissingError, match="has no version 7"):
        catalog.dataset("tiny/mix.rows", 7)
    with pytest.raises(MissingError, match="no run begins with 'zz'"):
        catalog.run("zz")
    with pytest.raises(MissingError, match="several runs begin with"):
        catalog.run(run_id[:4])
    with pytest.raises(MissingError, match="is not published"):
        catalog.facts(manifest_of("never").ref)


def test_aliases_keep_their_history(catalog: SqlCatalog) -> None:
    first, second = manifest_of("first"), manifest_of("second")
    publish(catalog, take(catalog, "a" * 64), {"rows": first})
    publish(catalog, take(catalog, "b" * 64), {"rows": second})

    catalog.tag("tiny/mix.rows", "best", 2, "ada")
    catalog.tag("tiny/mix.rows", "best", 1, "eva")
    catalog.tag("tiny/mix.rows", "old", 1, "eva")
    catalog.tag("tiny/mix.rows", "old", None, "eva")

    assert catalog.aliased("tiny/mix.rows", "best").ref == first.ref
    assert [(held.alias, held.version, held.who) for held in catalog.aliases("tiny/mix.rows")] == [
        ("best", 2, "ada"),
        ("best", 1, "eva"),
        ("old", 1, "eva"),
        ("old", None, "eva"),
    ]
    with pytest.raises(MissingError, match="has no alias 'old'; its aliases are best"):
        catalog.aliased("tiny/mix.rows", "old")
    with pytest.raises(MissingError, match="has no version 7"):
        catalog.tag("tiny/mix.rows", "best", 7, "ada")
    with pytest.raises(MissingError, match="no dataset is called 'tiny/mix'"):
        catalog.tag("tiny/mix", "best", None, "ada")


def test_the_graph_is_walked_both_ways(catalog: SqlCatalog) -> None:
    corpus, other = manifest_of("corpus"), manifest_of("other")
    rows = manifest_of("rows", ArtifactKind.PACKED_ROWS, (corpus.ref, other.ref))
    model = manifest_of("model", ArtifactKind.LANGUAGE_MODEL, (rows.ref,))
    outputs = {"corpus": corpus, "other": other, "rows": rows, "model": model}

    publish(catalog, take(catalog), outputs)

    ids = sorted(ref.id for ref in (corpus.ref, other.ref, rows.ref))
    assert [ref.id for ref in catalog.ancestors([model.ref])] == ids
    assert set(catalog.descendants([corpus.ref])) == {rows.ref, model.ref}
    assert catalog.descendants([model.ref]) == []
    assert catalog.with_shard(corpus.shards[0].sha256) == [corpus.ref]
    assert [held.name for held in catalog.names([model.ref])] == ["tiny/mix.model"]
    assert catalog.resolve_artifact(model.ref.id[:9]) == model.ref
    assert (
        list(catalog.artifacts(after=min(outputs[name].ref.id for name in outputs)))
        == sorted((held.ref for held in outputs.values()), key=lambda ref: ref.id)[1:]
    )
    with pytest.raises(MissingError, match="no artifact begins with"):
        catalog.resolve_artifact("0" * 64)
    with pytest.raises(MissingError, match="several artifacts begin with"):
        catalog.resolve_artifact("")


def test_a_publication_carries_its_mixture_checkpoints_and_price(catalog: SqlCatalog) -> None:
    model = manifest_of("model", ArtifactKind.LANGUAGE_MODEL)
    component = MixtureComponent("text", 30, 28, 0.5)
    usage = Usage(3600.0, 7200.0, 1, "h200", 8, 20.0)
    run_id = new_run_id()
    start = RunStart(
        run_id, "mix", "tiny", None, KEY, numeric_class="img|cuda", num_ranks=8, threads_per_rank=2
    )
    lease = take(catalog)
    catalog.start_run(start)

    publication = Publication(
        run_id,
        "{}",
        {},
        {"model": model.ref},
        (model,),
        usage=usage,
        mixture=(component,),
        checkpoints={400: model.ref},
    )
    catalog.publish(lease, publication)
    catalog.publish(lease, publication)  # an answer that was lost: nothing changes

    assert catalog.mixture(run_id) == [component]
    assert catalog.checkpoints(model.ref) == [Checkpoint(run_id, 400, model.ref)]
    record = catalog.run(run_id)
    assert (record.usage, record.usage.gpu_hours) == (usage, 8.0)
    assert (record.numeric_class, record.num_ranks) == ("img|cuda", 8)


def test_the_block_list_and_its_audit(catalog: SqlCatalog) -> None:
    block = Block(BlockKind.SPEAKER, "1034", "2026-01-01", "legal", "asked to be removed")

    catalog.block([block], {"shards": 3})
    catalog.block([replace(block, who="other")], {})

    assert catalog.blocks() == [block]
    assert catalog.unblock(BlockKind.SPEAKER, "1034", "legal")
    assert not catalog.unblock(BlockKind.SPEAKER, "1034", "legal")
    assert catalog.blocks() == []
    actions = [(entry.action, entry.who) for entry in catalog.audit(subject="speaker:1034")]
    assert actions == [("lift takedown", "legal"), ("takedown", "other"), ("takedown", "legal")]
    assert catalog.audit(limit=1)[0].action == "lift takedown"
    assert catalog.audit(subject="speaker:9") == []


def test_verdicts_of_a_failed_run_are_kept(catalog: SqlCatalog) -> None:
    run_id = new_run_id()
    catalog.start_run(RunStart(run_id, "mix", "tiny", stage_key=KEY))
    failed = CheckResult("spans", "are disjoint", success=False, observed="2 overlap")

    catalog.end_run(run_id, RunState.FAILED, "a check failed", checks=(failed,))

    assert catalog.run_checks(run_id) == [failed]
    assert catalog.running() == []


def test_silent_leases_expire_and_those_of_ended_runs_are_forgotten(catalog: SqlCatalog) -> None:
    run_id = new_run_id()
    take(catalog, KEY)
    take(catalog, run_id)
    catalog.start_run(RunStart(run_id, "pipeline", "tiny"))

    assert catalog.expire_leases(ttl_s=60) == 0
    catalog.end_run(run_id, RunState.COMPLETE)
    assert catalog.expire_leases(ttl_s=-1) == 2

    assert catalog.acquire(KEY, "next", ttl_s=60) == Lease(KEY, "next", 2)  # the fence goes on
    assert catalog.acquire(run_id, "next", ttl_s=60) == Lease(run_id, "next", 1)


def test_a_value_that_is_not_finite_is_kept_as_such(catalog: SqlCatalog) -> None:
    lease, run_id = take(catalog), new_run_id()
    catalog.start_run(RunStart(run_id, "mix", "tiny", stage_key=KEY))
    metrics = (Metric("loss", float("nan"), 1),)

    catalog.publish(lease, Publication(run_id, "{}", {}, {}, (), metrics))

    assert catalog.metrics(run_id)[0].value != catalog.metrics(run_id)[0].value


def test_the_migrations_make_the_tables_of_the_code_and_undo_them(url: str) -> None:
    migrate(url)
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, catalog_tables.metadata) == []

    migrate(url, "base")

    with engine.connect() as connection:
        assert set(sa.inspect(connection).get_table_names()) <= {"alembic_version"}
    engine.dispose()


def test_the_head_in_the_code_is_the_newest_migration() -> None:
    config = Config()
    folder = Path(adapters.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))

    script = ScriptDirectory.from_config(config)
    revisions = [revision.revision for revision in script.walk_revisions()]
    assert tuple(reversed(revisions)) == catalog_tables.REVISIONS
    assert script.get_current_head() == catalog_tables.HEAD


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    SqlCatalog.connect(url).close()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()

    with pytest.raises(ConfigError, match="schema 9999 is unknown to this version"):
        SqlCatalog.connect(url)


@pytest.mark.slow
def test_a_postgres_database_that_refuses_us_is_explained(postgres_url: str) -> None:
    nobody = postgres_url.replace("interloom@", "nobody:open-sesame@")
    nowhere = postgres_url.replace("/postgres?", "/nowhere?")

    with pytest.raises(ConfigError, match=r'refuses us.*role "nobody" does not exist') as refused:
        SqlCatalog.connect(nobody)
    with pytest.raises(ConfigError, match='database "nowhere" does not exist'):
        SqlCatalog.connect(nowhere)

    assert "open-sesame" not in str(refused.value)


def test_rows_of_an_older_schema_survive_the_way_up_and_down(url: str) -> None:
    migrate(url, "0001")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO job (id, namespace, name) VALUES (1, 'interloom', 'mix')",
            _OLD_RUN,
            "INSERT INTO usage (run_id, wall_s, cpu_s, peak_rss_bytes) VALUES ('r1', 1, 2, 3)",
        ):
            connection.exec_driver_sql(statement)

    migrate(url)
    catalog = SqlCatalog.connect(url)
    record = catalog.last_run("mix", "tiny")
    catalog.close()
    assert record is not None
    assert (record.code_digest, record.usage) == ("c0de", Usage(1, 2, 3))

    migrate(url, "0001")
    with engine.connect() as connection:
        kept = connection.exec_driver_sql("SELECT code_digest FROM run").scalar()
    engine.dispose()
    assert kept == "c0de"


@pytest.mark.slow
def test_a_postgres_schema_that_is_behind_is_refused(postgres_url: str) -> None:
    with pytest.raises(ConfigError, match="has schema None, this version needs"):
        SqlCatalog.connect(postgres_url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "INTERLOOM_DATABASE_URL cannot be read"),
        ("sqlite://", "needs a SQLite file"),
        ("sqlite:////dev/null/catalog.sqlite", "cannot be made"),
        ("nosuch://x", "INTERLOOM_DATABASE_URL cannot be read"),
        ("oracle+oracledb://x", "the database driver 'oracledb' is not installed"),
    ],
)
def test_a_database_that_cannot_be_used_is_explained(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SqlCatalog.connect(url)


@pytest.mark.slow
def test_processes_that_open_a_new_catalog_at_once_all_succeed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    program = (
        "from interloom.adapters.sql_catalog import SqlCatalog;"
        f"SqlCatalog.connect({url!r}).datasets()"
    )

    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]

    assert [process.wait(60) for process in processes] == [0] * 4
