"""Corpora as tables in shards: real ones by ingest, the starter world by a generator."""
