"""Request to result, one module a stage: the table of contents of the pipeline."""
