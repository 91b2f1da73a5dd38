"""Alembic migrations of the catalog: expand and contract only."""
