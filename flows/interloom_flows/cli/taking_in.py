"""``ingest``: corpora of one's own."""

import typer

app = typer.Typer(
    help="Take in a corpus of your own under a name.", no_args_is_help=True, rich_markup_mode=None
)
