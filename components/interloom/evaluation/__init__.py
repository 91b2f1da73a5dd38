"""Tasks, scoring, judges, intervals."""
