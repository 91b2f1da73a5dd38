"""The rooms of the SQL catalog: database, leases, runs, publishing, lineage, governance."""
