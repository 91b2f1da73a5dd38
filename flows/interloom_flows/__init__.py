"""Prefect flows and the command line: order, retries, schedules."""
