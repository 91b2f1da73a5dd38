"""No query of the product looks through a whole table that grows."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from interloom.adapters.sql_catalog import SqlCatalog
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import MissingError
from interloom.ports.catalog import RunState

GROWING = (
    "run",
    "run_event",
    "artifact",
    "artifact_parent",
    "shard",
    "licence_tag",
    "dataset",
    "dataset_version",
    "dataset_alias",
    "run_input",
    "run_output",
    "stage_result",
    "metric",
    "check_result",
    "usage",
    "mixture_component",
    "checkpoint",
    "verification",
    "lease",
)
REF = ArtifactRef(ArtifactKind.PACKED_ROWS, "0" * 64)
RUN = "00000000-0000-0000-0000-000000000000"

QUERIES: dict[str, Callable[[SqlCatalog], object]] = {
    "find": lambda catalog: catalog.find("0" * 64),
    "acquire": lambda catalog: [catalog.acquire("0" * 64, who, ttl_s=60) for who in "ab"],
    "lease_owner": lambda catalog: catalog.lease_owner("0" * 64),
    "running": lambda catalog: catalog.running(),
    "end_run": lambda catalog: catalog.end_run(RUN, RunState.FAILED),
    "stages": lambda catalog: catalog.runs(parent_run_id=RUN),
    "last_run": lambda catalog: catalog.last_run("mix", "tiny"),
    "run": lambda catalog: catalog.run("0000"),
    "dataset": lambda catalog: catalog.dataset("tiny/mix.rows"),
    "version": lambda catalog: catalog.dataset("tiny/mix.rows", 3),
    "aliases": lambda catalog: catalog.aliases("tiny/mix.rows"),
    "names": lambda catalog: catalog.names([REF]),
    "metrics": lambda catalog: catalog.metrics(RUN),
    "results": lambda catalog: catalog.results(RUN),
    "checks": lambda catalog: catalog.checks(REF),
    "run_checks": lambda catalog: catalog.run_checks(RUN),
    "mixture": lambda catalog: catalog.mixture(RUN),
    "checkpoints": lambda catalog: catalog.checkpoints(REF),
    "edges": lambda catalog: catalog.edges([RUN]),
    "producer": lambda catalog: catalog.producer(REF),
    "consumers": lambda catalog: catalog.consumers(REF),
    "resolve_artifact": lambda catalog: catalog.resolve_artifact("00"),
    "artifacts": lambda catalog: catalog.artifacts(after="0" * 64),
    "with_shard": lambda catalog: catalog.with_shard("0" * 64),
    "children": lambda catalog: catalog.children([REF]),
    "ancestors": lambda catalog: catalog.ancestors([REF]),
    "descendants": lambda catalog: catalog.descendants([REF]),
    "verifications": lambda catalog: catalog.verifications(REF),
    "audit": lambda catalog: catalog.audit(subject="speaker:bob"),
    "due_events": lambda catalog: catalog.due_events(),
}


def plans_of(catalog: SqlCatalog, ask: Callable[[SqlCatalog], object]) -> list[tuple[str, str]]:
    """Each statement that a query sends, with a step of its plan."""
    engine = catalog._database.engine
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    with suppress(MissingError):  # what is asked for is not there; the plan is the same
        ask(catalog)
    event.remove(engine, "before_cursor_execute", note)
    with engine.connect() as connection:
        return [
            (statement, str(step[3]))
            for statement, parameters in sent
            if statement.lstrip().startswith(("SELECT", "UPDATE", "WITH", "DELETE"))
            for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> SqlCatalog:
    folder: Path = tmp_path_factory.mktemp("indexes")
    return SqlCatalog.connect(f"sqlite:///{folder / 'catalog.sqlite'}")


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_goes_by_an_index(name: str, catalog: SqlCatalog) -> None:
    scanned = re.compile(rf"^SCAN ({'|'.join(GROWING)})(?! USING (COVERING )?INDEX)\b")

    plans = plans_of(catalog, QUERIES[name])

    assert plans
    for statement, step in plans:
        hint_of_a_missing_name = statement.startswith("SELECT dataset.name \nFROM dataset")
        assert hint_of_a_missing_name or not scanned.match(step), f"{step}: {statement}"
