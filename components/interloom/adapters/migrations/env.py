"""Runs migrations over the connection that the catalog hands in."""

from alembic import context

from interloom.adapters.catalog.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
)
context.run_migrations()
