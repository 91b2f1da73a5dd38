"""The tables of the catalog, shaped like OpenLineage. Times are ISO 8601 in UTC."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

REVISIONS = ("0001", "0002", "0003", "0004")  # as in migrations/versions
HEAD = REVISIONS[-1]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ID = String(64)
_TIME = String(32)

job = Table(
    "job",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("namespace", String(64), nullable=False),
    Column("name", String(128), nullable=False),
    UniqueConstraint("namespace", "name"),
)

job_version = Table(  # code and machine: within one, equal requests give equal bytes
    "job_version",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("job.id"), nullable=False),
    Column("code_digest", String(64), nullable=False),
    Column("numeric_class", String(256), nullable=False),  # image digest and device
    UniqueConstraint("job_id", "code_digest", "numeric_class"),
)

run = Table(
    "run",
    metadata,
    Column("id", String(36), primary_key=True),  # UUID 7: sorts by start
    Column("job_id", ForeignKey("job.id"), nullable=False),
    Column("recipe", String(256), nullable=False),
    Column("parent_run_id", String(36), ForeignKey("run.id"), index=True),
    Column("stage_key", _ID, index=True),
    Column("request_json", Text, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("origin_run_id", String(36), ForeignKey("run.id")),  # set for a run that reused
    Column("started_at", _TIME, nullable=False),
    Column("ended_at", _TIME),
    Column("error", Text),
    Column("job_version_id", ForeignKey("job_version.id")),
    Column("num_ranks", Integer),
    Column("threads_per_rank", Integer),
    Index("ix_run_job_recipe", "job_id", "recipe", "id"),
)

run_event = Table(
    "run_event",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("run_id", ForeignKey("run.id"), nullable=False, index=True),
    Column("type", String(16), nullable=False),  # START, COMPLETE, FAIL or ABORT
    Column("at", _TIME, nullable=False),
)

artifact = Table(
    "artifact",
    metadata,
    Column("id", _ID, primary_key=True),  # sha256 of the manifest
    Column("kind", String(32), nullable=False),
    Column("manifest_json", Text, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("counts_json", Text, nullable=False),
    Column("producer_run_id", ForeignKey("run.id"), nullable=False),
    Column("published_at", _TIME, nullable=False),
)

artifact_parent = Table(
    "artifact_parent",
    metadata,
    Column("artifact_id", ForeignKey("artifact.id"), primary_key=True),
    Column("parent_id", _ID, primary_key=True, index=True),
)

shard = Table(
    "shard",
    metadata,
    Column("artifact_id", ForeignKey("artifact.id"), primary_key=True),
    Column("path", String(512), primary_key=True),
    Column("sha256", _ID, nullable=False, index=True),
    Column("md5", String(32), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
)

licence_tag = Table(
    "licence_tag",
    metadata,
    Column("artifact_id", ForeignKey("artifact.id"), primary_key=True),
    Column("tag", String(128), primary_key=True, index=True),
)

dataset = Table(
    "dataset",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("namespace", String(64), nullable=False),
    Column("name", String(512), nullable=False),
    Column("type", String(16), nullable=False),  # DATASET or MODEL
    UniqueConstraint("namespace", "name"),
)

dataset_alias = Table(  # a log: the newest row of a name and alias holds
    "dataset_alias",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("dataset_id", ForeignKey("dataset.id"), nullable=False),
    Column("alias", String(64), nullable=False),
    Column("version", Integer),  # null when the alias was taken away
    Column("at", _TIME, nullable=False),
    Column("who", String(256), nullable=False),
    Index("ix_dataset_alias_dataset_id", "dataset_id", "alias", "seq"),
)

dataset_version = Table(
    "dataset_version",
    metadata,
    Column("dataset_id", ForeignKey("dataset.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("artifact_id", ForeignKey("artifact.id"), nullable=False, index=True),
    Column("run_id", ForeignKey("run.id"), nullable=False),
    Column("published_at", _TIME, nullable=False, index=True),
    UniqueConstraint("dataset_id", "artifact_id"),
)

run_input = Table(
    "run_input",
    metadata,
    Column("run_id", ForeignKey("run.id"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("artifact_id", ForeignKey("artifact.id"), nullable=False, index=True),
)

run_output = Table(
    "run_output",
    metadata,
    Column("run_id", ForeignKey("run.id"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("artifact_id", ForeignKey("artifact.id"), nullable=False, index=True),
)

stage_result = Table(
    "stage_result",
    metadata,
    Column("stage_key", _ID, primary_key=True),
    Column("run_id", ForeignKey("run.id"), nullable=False),
    Column("result_json", Text, nullable=False),
)

metric = Table(
    "metric",
    metadata,
    Column("run_id", ForeignKey("run.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("name", String(128), nullable=False, index=True),
    Column("step", Integer),
    Column("value", Float),  # null stands for a value that is not finite
)
_is_result = metric.c.step.is_(None)
Index(
    "ix_metric_results",
    metric.c.run_id,
    metric.c.position,
    sqlite_where=_is_result,
    postgresql_where=_is_result,
)

check_result = Table(
    "check_result",
    metadata,
    Column("run_id", ForeignKey("run.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("suite", String(128), nullable=False),
    Column("expectation", String(256), nullable=False),
    Column("success", Boolean, nullable=False),
    Column("observed", Text, nullable=False),
    Column("failed_rows_json", Text, nullable=False),
    Column("severity", String(8), nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("run_id", ForeignKey("run.id"), primary_key=True),
    Column("wall_s", Float, nullable=False),
    Column("cpu_s", Float, nullable=False),
    Column("peak_rss_bytes", BigInteger, nullable=False),
    Column("node_kind", String(64), nullable=False, server_default=""),
    Column("num_gpus", Integer, nullable=False, server_default="0"),
    Column("price", Float, nullable=False, server_default="0"),  # in the installation's currency
)

mixture_component = Table(
    "mixture_component",
    metadata,
    Column("run_id", ForeignKey("run.id"), primary_key=True),
    Column("source", String(64), primary_key=True),
    Column("tokens_asked", BigInteger, nullable=False),
    Column("tokens_drawn", BigInteger, nullable=False),
    Column("epochs", Float, nullable=False),
)

checkpoint = Table(  # published weights, by the step of training that gave them
    "checkpoint",
    metadata,
    Column("run_id", ForeignKey("run.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("artifact_id", ForeignKey("artifact.id"), nullable=False, index=True),
)

verification = Table(  # what came of making an artifact a second time
    "verification",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("artifact_id", ForeignKey("artifact.id"), nullable=False, index=True),
    Column("run_id", ForeignKey("run.id"), nullable=False),
    Column("at", _TIME, nullable=False),
    Column("verdict", String(32), nullable=False),
    Column("detail", Text, nullable=False),
)

block = Table(  # what may not be read any more
    "block",
    metadata,
    Column("kind", String(16), primary_key=True),  # source, speaker or licence
    Column("value", String(256), primary_key=True),
    Column("since", _TIME, nullable=False),
    Column("who", String(256), nullable=False),
    Column("reason", Text, nullable=False),
)

audit = Table(  # append-only: who did what that changes what others may do
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("at", _TIME, nullable=False),
    Column("who", String(256), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(512), nullable=False, index=True),
    Column("detail_json", Text, nullable=False),
)

outbox = Table(  # events of runs that still have to be told to the lineage sink
    "outbox",
    metadata,
    Column("seq", ForeignKey("run_event.seq"), primary_key=True),
    Column("num_attempts", Integer, nullable=False),
    Column("retry_at_s", Float, nullable=False),
    Column("last_error", Text),
)

lease = Table(
    "lease",
    metadata,
    Column("stage_key", _ID, primary_key=True),
    Column("owner", String(256), nullable=False),  # empty when it was given back
    Column("fence", Integer, nullable=False),
    Column("heartbeat_s", Float, nullable=False),  # of the database's clock
)

rendezvous = Table(  # where the ranks of one attempt of a stage are, on a cluster
    "rendezvous",
    metadata,
    Column("meeting", String(64), primary_key=True),  # of one attempt, never used twice
    Column("rank", Integer, primary_key=True),
    Column("member", String(64), nullable=False),  # the pod that came first
    Column("address", String(64), nullable=False),
    Column("since_s", Float, nullable=False),
)
