"""Versions of jobs, aliases, mixtures, checkpoints, prices, blocks, audit and the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TABLES = (
    "outbox",
    "audit",
    "block",
    "verification",
    "checkpoint",
    "mixture_component",
    "dataset_alias",
)


def upgrade() -> None:
    """Add the tables; move the code's digest from runs to versions of jobs."""
    _add_job_versions()
    _add_lineage_tables()
    _add_governance_tables()
    for column in (
        sa.Column("node_kind", sa.String(length=64), nullable=False, server_default=""),
        sa.Column("num_gpus", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("price", sa.Float(), nullable=False, server_default="0"),
    ):
        op.add_column("usage", column)


def downgrade() -> None:
    """Drop what was added; the code's digest goes back to the runs."""
    for name in ("price", "num_gpus", "node_kind"):
        op.drop_column("usage", name)
    for table in _TABLES:
        op.drop_table(table)
    op.add_column(
        "run", sa.Column("code_digest", sa.String(length=64), nullable=False, server_default="")
    )
    op.execute(
        "UPDATE run SET code_digest = COALESCE((SELECT code_digest FROM job_version "
        "WHERE job_version.id = run.job_version_id), '')"
    )
    op.drop_index(op.f("ix_run_state"), table_name="run")
    for name in ("threads_per_rank", "num_ranks", "job_version_id"):
        op.drop_column("run", name)
    op.drop_table("job_version")


def _add_job_versions() -> None:
    op.create_table(
        "job_version",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("job.id"), nullable=False),
        sa.Column("code_digest", sa.String(length=64), nullable=False),
        sa.Column("numeric_class", sa.String(length=256), nullable=False),
        sa.UniqueConstraint("job_id", "code_digest", "numeric_class"),
    )
    op.add_column(
        "run",
        sa.Column("job_version_id", sa.Integer(), sa.ForeignKey("job_version.id")),
        inline_references=True,
    )
    op.add_column("run", sa.Column("num_ranks", sa.Integer()))
    op.add_column("run", sa.Column("threads_per_rank", sa.Integer()))
    op.execute(
        "INSERT INTO job_version (job_id, code_digest, numeric_class) "
        "SELECT DISTINCT job_id, code_digest, '' FROM run"
    )
    op.execute(
        "UPDATE run SET job_version_id = (SELECT id FROM job_version v "
        "WHERE v.job_id = run.job_id AND v.code_digest = run.code_digest)"
    )
    op.drop_column("run", "code_digest")
    op.create_index(op.f("ix_run_state"), "run", ["state"])


def _add_lineage_tables() -> None:
    op.create_table(
        "dataset_alias",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("dataset_id", sa.Integer(), sa.ForeignKey("dataset.id"), nullable=False),
        sa.Column("alias", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer()),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("who", sa.String(length=256), nullable=False),
    )
    op.create_index(
        op.f("ix_dataset_alias_dataset_id"), "dataset_alias", ["dataset_id", "alias", "seq"]
    )
    op.create_table(
        "mixture_component",
        sa.Column("run_id", sa.String(length=36), sa.ForeignKey("run.id"), primary_key=True),
        sa.Column("source", sa.String(length=64), primary_key=True),
        sa.Column("tokens_asked", sa.BigInteger(), nullable=False),
        sa.Column("tokens_drawn", sa.BigInteger(), nullable=False),
        sa.Column("epochs", sa.Float(), nullable=False),
    )
    op.create_table(
        "checkpoint",
        sa.Column("run_id", sa.String(length=36), sa.ForeignKey("run.id"), primary_key=True),
        sa.Column("step", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column(
            "artifact_id", sa.String(length=64), sa.ForeignKey("artifact.id"), nullable=False
        ),
    )
    op.create_index(op.f("ix_checkpoint_artifact_id"), "checkpoint", ["artifact_id"])
    op.create_table(
        "verification",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column(
            "artifact_id", sa.String(length=64), sa.ForeignKey("artifact.id"), nullable=False
        ),
        sa.Column("run_id", sa.String(length=36), sa.ForeignKey("run.id"), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("verdict", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
    )
    op.create_index(op.f("ix_verification_artifact_id"), "verification", ["artifact_id"])


def _add_governance_tables() -> None:
    op.create_table(
        "block",
        sa.Column("kind", sa.String(length=16), primary_key=True),
        sa.Column("value", sa.String(length=256), primary_key=True),
        sa.Column("since", sa.String(length=32), nullable=False),
        sa.Column("who", sa.String(length=256), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("who", sa.String(length=256), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("detail_json", sa.Text(), nullable=False),
    )
    op.create_index(op.f("ix_audit_subject"), "audit", ["subject"])
    op.create_table(
        "outbox",
        sa.Column("seq", sa.Integer(), sa.ForeignKey("run_event.seq"), primary_key=True),
        sa.Column("num_attempts", sa.Integer(), nullable=False),
        sa.Column("retry_at_s", sa.Float(), nullable=False),
        sa.Column("last_error", sa.Text()),
    )
