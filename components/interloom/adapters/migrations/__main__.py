"""Bring the catalog of ``INTERLOOM_DATABASE_URL`` to the newest schema."""

from interloom.adapters.sql_catalog import migrate
from interloom.config.settings import load_settings

if __name__ == "__main__":
    migrate(load_settings().catalog_url)
