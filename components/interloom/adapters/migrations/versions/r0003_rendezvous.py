"""Where the ranks of one attempt of a stage find each other."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "rendezvous",
        sa.Column("meeting", sa.String(length=64), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("member", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("since_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("meeting", "rank", name=op.f("pk_rendezvous")),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("rendezvous")
