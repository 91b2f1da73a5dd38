"""The first form of the catalog."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "dataset",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("namespace", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=512), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset")),
        sa.UniqueConstraint("namespace", "name", name=op.f("uq_dataset_namespace_name")),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("namespace", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("namespace", "name", name=op.f("uq_job_namespace_name")),
    )
    op.create_table(
        "lease",
        sa.Column("stage_key", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=256), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("heartbeat_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("stage_key", name=op.f("pk_lease")),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("recipe", sa.String(length=256), nullable=False),
        sa.Column("parent_run_id", sa.String(length=36), nullable=True),
        sa.Column("stage_key", sa.String(length=64), nullable=True),
        sa.Column("code_digest", sa.String(length=64), nullable=False),
        sa.Column("request_json", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("origin_run_id", sa.String(length=36), nullable=True),
        sa.Column("started_at", sa.String(length=32), nullable=False),
        sa.Column("ended_at", sa.String(length=32), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_run_job_id")),
        sa.ForeignKeyConstraint(["origin_run_id"], ["run.id"], name=op.f("fk_run_origin_run_id")),
        sa.ForeignKeyConstraint(["parent_run_id"], ["run.id"], name=op.f("fk_run_parent_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
    )
    op.create_index("ix_run_job_recipe", "run", ["job_id", "recipe", "id"], unique=False)
    op.create_index(op.f("ix_run_parent_run_id"), "run", ["parent_run_id"], unique=False)
    op.create_index(op.f("ix_run_stage_key"), "run", ["stage_key"], unique=False)
    op.create_table(
        "artifact",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("manifest_json", sa.Text(), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("counts_json", sa.Text(), nullable=False),
        sa.Column("producer_run_id", sa.String(length=36), nullable=False),
        sa.Column("published_at", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["producer_run_id"], ["run.id"], name=op.f("fk_artifact_producer_run_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifact")),
    )
    op.create_table(
        "check_result",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("suite", sa.String(length=128), nullable=False),
        sa.Column("expectation", sa.String(length=256), nullable=False),
        sa.Column("success", sa.Boolean(), nullable=False),
        sa.Column("observed", sa.Text(), nullable=False),
        sa.Column("failed_rows_json", sa.Text(), nullable=False),
        sa.Column("severity", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_check_result_run_id")),
        sa.PrimaryKeyConstraint("run_id", "position", name=op.f("pk_check_result")),
    )
    op.create_table(
        "metric",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("value", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_metric_run_id")),
        sa.PrimaryKeyConstraint("run_id", "position", name=op.f("pk_metric")),
    )
    op.create_index(op.f("ix_metric_name"), "metric", ["name"], unique=False)
    op.create_table(
        "run_event",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_run_event_run_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_run_event")),
    )
    op.create_index(op.f("ix_run_event_run_id"), "run_event", ["run_id"], unique=False)
    op.create_table(
        "stage_result",
        sa.Column("stage_key", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("result_json", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_stage_result_run_id")),
        sa.PrimaryKeyConstraint("stage_key", name=op.f("pk_stage_result")),
    )
    op.create_table(
        "usage",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("wall_s", sa.Float(), nullable=False),
        sa.Column("cpu_s", sa.Float(), nullable=False),
        sa.Column("peak_rss_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_usage_run_id")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_usage")),
    )
    op.create_table(
        "artifact_parent",
        sa.Column("artifact_id", sa.String(length=64), nullable=False),
        sa.Column("parent_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifact.id"], name=op.f("fk_artifact_parent_artifact_id")
        ),
        sa.PrimaryKeyConstraint("artifact_id", "parent_id", name=op.f("pk_artifact_parent")),
    )
    op.create_index(
        op.f("ix_artifact_parent_parent_id"), "artifact_parent", ["parent_id"], unique=False
    )
    op.create_table(
        "dataset_version",
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("artifact_id", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("published_at", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifact.id"], name=op.f("fk_dataset_version_artifact_id")
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dataset.id"], name=op.f("fk_dataset_version_dataset_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_dataset_version_run_id")),
        sa.PrimaryKeyConstraint("dataset_id", "version", name=op.f("pk_dataset_version")),
        sa.UniqueConstraint(
            "dataset_id", "artifact_id", name=op.f("uq_dataset_version_dataset_id_artifact_id")
        ),
    )
    op.create_index(
        op.f("ix_dataset_version_artifact_id"), "dataset_version", ["artifact_id"], unique=False
    )
    op.create_index(
        op.f("ix_dataset_version_published_at"), "dataset_version", ["published_at"], unique=False
    )
    op.create_table(
        "licence_tag",
        sa.Column("artifact_id", sa.String(length=64), nullable=False),
        sa.Column("tag", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifact.id"], name=op.f("fk_licence_tag_artifact_id")
        ),
        sa.PrimaryKeyConstraint("artifact_id", "tag", name=op.f("pk_licence_tag")),
    )
    op.create_index(op.f("ix_licence_tag_tag"), "licence_tag", ["tag"], unique=False)
    op.create_table(
        "run_input",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("artifact_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifact.id"], name=op.f("fk_run_input_artifact_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_run_input_run_id")),
        sa.PrimaryKeyConstraint("run_id", "name", name=op.f("pk_run_input")),
    )
    op.create_index(op.f("ix_run_input_artifact_id"), "run_input", ["artifact_id"], unique=False)
    op.create_table(
        "run_output",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("artifact_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifact.id"], name=op.f("fk_run_output_artifact_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_run_output_run_id")),
        sa.PrimaryKeyConstraint("run_id", "name", name=op.f("pk_run_output")),
    )
    op.create_index(op.f("ix_run_output_artifact_id"), "run_output", ["artifact_id"], unique=False)
    op.create_table(
        "shard",
        sa.Column("artifact_id", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("md5", sa.String(length=32), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifact.id"], name=op.f("fk_shard_artifact_id")
        ),
        sa.PrimaryKeyConstraint("artifact_id", "path", name=op.f("pk_shard")),
    )
    op.create_index(op.f("ix_shard_sha256"), "shard", ["sha256"], unique=False)


def downgrade() -> None:
    """Drop them."""
    op.drop_index(op.f("ix_shard_sha256"), table_name="shard")
    op.drop_table("shard")
    op.drop_index(op.f("ix_run_output_artifact_id"), table_name="run_output")
    op.drop_table("run_output")
    op.drop_index(op.f("ix_run_input_artifact_id"), table_name="run_input")
    op.drop_table("run_input")
    op.drop_index(op.f("ix_licence_tag_tag"), table_name="licence_tag")
    op.drop_table("licence_tag")
    op.drop_index(op.f("ix_dataset_version_published_at"), table_name="dataset_version")
    op.drop_index(op.f("ix_dataset_version_artifact_id"), table_name="dataset_version")
    op.drop_table("dataset_version")
    op.drop_index(op.f("ix_artifact_parent_parent_id"), table_name="artifact_parent")
    op.drop_table("artifact_parent")
    op.drop_table("usage")
    op.drop_table("stage_result")
    op.drop_index(op.f("ix_run_event_run_id"), table_name="run_event")
    op.drop_table("run_event")
    op.drop_index(op.f("ix_metric_name"), table_name="metric")
    op.drop_table("metric")
    op.drop_table("check_result")
    op.drop_table("artifact")
    op.drop_index(op.f("ix_run_stage_key"), table_name="run")
    op.drop_index(op.f("ix_run_parent_run_id"), table_name="run")
    op.drop_index("ix_run_job_recipe", table_name="run")
    op.drop_table("run")
    op.drop_table("lease")
    op.drop_table("job")
    op.drop_table("dataset")
