"""The results of a run are found without its curves, which may be a million points."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_INDEX = "ix_metric_results"


def upgrade() -> None:
    """Add an index of the metrics that are no points of a curve."""
    is_result = sa.text("step IS NULL")
    op.create_index(
        _INDEX,
        "metric",
        ["run_id", "position"],
        sqlite_where=is_result,
        postgresql_where=is_result,
    )


def downgrade() -> None:
    """Drop the index."""
    op.drop_index(_INDEX, table_name="metric")
