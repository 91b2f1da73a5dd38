"""Events of runs, as OpenLineage: out of the outbox, to a file and to a server."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from interloom.adapters.openlineage_sink import PRODUCER, SCHEMAS, open_sink
from interloom.adapters.sql_catalog import SqlCatalog
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError, TransientError
from interloom.core.ids import new_run_id
from interloom.ports.catalog import (
    MixtureComponent,
    Publication,
    RunStart,
    RunState,
    Usage,
)
from interloom.ports.events import LineageEvent
from interloom.ports.gate import CheckResult
from interloom.stages.contract import StageCall, StageContract, execute_stage
from interloom.stages.leasing import held_run
from interloom.stages.telling import Told, tell_events
from interloom.testing.launcher import InlineLauncher
from interloom.testing.probe import REGISTRY, ProbeRequest
from interloom.testing.store import MemoryStore

SCHEMA_FOLDER = Path(__file__).parents[2] / "docs" / "lineage" / "1-0-0"
Event = dict[str, Any]


@pytest.fixture
def contract(tmp_path: Path) -> Iterator[StageContract]:
    store = MemoryStore()
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    catalog = SqlCatalog.connect(url, tells_events=True)
    yield StageContract(
        store=store,
        catalog=catalog,
        launcher=InlineLauncher(store, registry=REGISTRY),
        work_folder=tmp_path / "work",
        registry=REGISTRY,
    )
    catalog.close()


def call(text: str = "hello", **changes: Any) -> StageCall:
    return StageCall(stage="probe", request=ProbeRequest(text=text), recipe="tiny", **changes)


def put(store: MemoryStore, kind: ArtifactKind, name: str, **counts: int) -> ArtifactRef:
    with store.draft(kind) as draft:
        with draft.shard(name) as shard:
            shard.path.write_text(name)
            shard.count(**counts)
        return draft.commit(licences=("CC0-1.0",))


def publish_everything(contract: StageContract) -> str:
    """A run that has all that a facet of ours can tell; gives its id."""
    store = contract.store
    assert isinstance(store, MemoryStore)
    woven = put(store, ArtifactKind.INTERLEAVED, "w", rows=3, spans=5, speech_tokens=70)
    model = put(store, ArtifactKind.LANGUAGE_MODEL, "m")
    run_id, lease = new_run_id(), contract.catalog.acquire("1" * 64, "me", ttl_s=60)
    assert lease is not None
    contract.catalog.start_run(RunStart(run_id, "mix", "tiny", stage_key="1" * 64))
    publication = Publication(
        run_id,
        "{}",
        {},
        {"woven": woven, "model": model},
        (store.manifest(woven), store.manifest(model)),
        checks=(CheckResult("spans", "are disjoint", success=True, observed="all"),),
        usage=Usage(1.0, 2.0, 3, "h200", 8, 0.5),
        mixture=(MixtureComponent("text", 30, 28, 0.5),),
        checkpoints={400: model},
    )
    contract.catalog.publish(lease, publication)
    return run_id


def tell_to_file(contract: StageContract, path: Path) -> list[Event]:
    told = tell_events(contract.catalog, contract.store, open_sink(file=path))
    assert told.error == ""
    return [json.loads(line) for line in path.read_text().splitlines()]


def own_facets(event: Event) -> Iterator[tuple[str, Event]]:
    ends = [event["run"]["facets"]]
    ends += [held["facets"] for held in (*event["inputs"], *event["outputs"])]
    for facets in ends:
        yield from ((name, body) for name, body in facets.items() if name.startswith("interloom_"))


def test_every_run_has_one_beginning_and_one_end(contract: StageContract, tmp_path: Path) -> None:
    start = RunStart(new_run_id(), "pretraining", "tiny")
    with held_run(contract.catalog, start, ttl_s=60) as pipeline:
        made = execute_stage(contract, call(parent_run_id=pipeline))
        again = execute_stage(contract, call(parent_run_id=pipeline))
        with pytest.raises(DataError):
            execute_stage(contract, replace(call(), request=failing()))

    events = tell_to_file(contract, tmp_path / "events" / "lineage.jsonl")

    by_run: dict[str, list[str]] = {}
    for event in events:
        by_run.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert by_run[pipeline] == by_run[made.run_id] == by_run[again.run_id] == ["START", "COMPLETE"]
    assert sorted(by_run.values()) == [["START", "COMPLETE"]] * 3 + [["START", "FAIL"]]
    ends = {event["run"]["runId"]: event for event in events if event["eventType"] != "START"}
    parent = ends[made.run_id]["run"]["facets"]["parent"]
    assert (parent["run"]["runId"], parent["root"]["run"]["runId"]) == (pipeline, pipeline)
    assert ends[again.run_id]["run"]["facets"]["interloom_usage"]["cacheHit"]
    assert ends[made.run_id]["outputs"][0]["name"] == "tiny/probe.corpus"
    failed = next(event for event in events if event["eventType"] == "FAIL")
    assert "refuses its data" in failed["run"]["facets"]["errorMessage"]["message"]
    assert contract.catalog.num_untold() == 0


def failing() -> ProbeRequest:
    return ProbeRequest(text="hello", ending="data")


def test_facets_of_our_own_hold_to_the_published_schemas(
    contract: StageContract, tmp_path: Path
) -> None:
    publish_everything(contract)

    events = tell_to_file(contract, tmp_path / "lineage.jsonl")

    seen = set()
    for event in events:
        for name, body in own_facets(event):
            assert body["_schemaURL"].startswith(f"{SCHEMAS}/")
            schema = json.loads((SCHEMA_FOLDER / body["_schemaURL"].rpartition("/")[2]).read_text())
            jsonschema.Draft202012Validator.check_schema(schema)
            jsonschema.validate(body, schema)
            assert body["_producer"] == PRODUCER
            seen.add(name)
    assert seen == {
        f"interloom_{name}"
        for name in ("mixture", "usage", "licence", "tokenStats", "spanAlignment", "checkpoint")
    }
    published = {path.stem for path in SCHEMA_FOLDER.glob("*.json")}
    assert len(published) == len(seen)


@pytest.mark.parametrize("path", sorted(SCHEMA_FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_schema_refuses_what_it_does_not_name(path: Path) -> None:
    schema = json.loads(path.read_text())
    body = {"_producer": PRODUCER, "_schemaURL": schema["$id"], "other": 1}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, schema)
    assert schema["$id"] == f"{SCHEMAS}/{path.name}"


@contextmanager
def lineage_server(codes: Sequence[int]) -> Iterator[tuple[str, list[Event]]]:
    """A server that answers with these codes in turn, then with 200; keeps what it took."""
    taken: list[Event] = []
    left = list(codes)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            code = left.pop(0) if left else 200
            if code == 200:
                taken.append(json.loads(body) | {"key": self.headers["Authorization"]})
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", taken
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_gets_the_same_events_with_its_key(contract: StageContract) -> None:
    execute_stage(contract, call())

    with lineage_server([]) as (url, taken):
        told = tell_events(contract.catalog, contract.store, open_sink(url=url, api_key="k3y"))

    assert told == Told(2, 0)
    assert [event["eventType"] for event in taken] == ["START", "COMPLETE"]
    assert {event["key"] for event in taken} == {"Bearer k3y"}


def test_a_sink_that_is_down_is_a_fault_that_fails_no_run_and_loses_no_event(
    contract: StageContract,
) -> None:
    made = execute_stage(contract, call())
    down = open_sink(url="http://127.0.0.1:9")

    told = tell_events(contract.catalog, contract.store, down)
    too_early = tell_events(contract.catalog, contract.store, down)

    assert contract.catalog.run(made.run_id).state is RunState.COMPLETE
    assert (told.num_told, told.num_left) == (0, 2)
    assert "did not take a lineage event" in told.error
    assert too_early == Told(0, 2)  # it waits for its time


def test_a_fault_of_the_server_in_the_middle_keeps_the_order(contract: StageContract) -> None:
    execute_stage(contract, call())
    with lineage_server([200, 503]) as (url, taken):
        sink = open_sink(url=url)
        first = tell_events(contract.catalog, contract.store, sink)
        entry = contract.catalog.due_events()
        assert entry == []
        seq = first_waiting(contract)
        contract.catalog.event_failed(seq, "asked again at once", retry_in_s=-1)
        second = tell_events(contract.catalog, contract.store, sink)

    assert (first.num_told, first.num_left, second) == (1, 1, Told(1, 0))
    assert [event["eventType"] for event in taken] == ["START", "COMPLETE"]


def first_waiting(contract: StageContract) -> int:
    catalog = contract.catalog
    assert isinstance(catalog, SqlCatalog)
    with catalog._database.transaction(writes=False) as connection:
        return int(connection.exec_driver_sql("SELECT min(seq) FROM outbox").scalar_one())


def test_without_a_sink_nothing_is_put_into_the_outbox(tmp_path: Path) -> None:
    catalog = SqlCatalog.connect(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    catalog.start_run(RunStart(new_run_id(), "mix", "tiny"))

    assert catalog.num_untold() == 0
    catalog.close()


def test_one_teller_at_a_time(contract: StageContract) -> None:
    execute_stage(contract, call())
    assert contract.catalog.acquire("outbox", "another", ttl_s=60) is not None

    class Unused:
        def tell(self, event: LineageEvent) -> None:
            raise TransientError(f"nobody may tell {event.type}")

    told = tell_events(contract.catalog, contract.store, Unused())

    assert told == Told(0, 2, "another process is telling them")


def test_events_go_to_one_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lineage events go to one place"):
        open_sink(url="http://127.0.0.1:9", file=tmp_path / "x")
    with pytest.raises(ConfigError, match="lineage events go to one place"):
        open_sink()
