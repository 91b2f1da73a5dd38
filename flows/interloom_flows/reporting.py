"""Sentences about what was found, for the log of a flow and for the screen."""

from interloom.stages.sweeping import Lost


def describe_lost(lost: Lost) -> str:
    """Which artifact is not whole, what hangs on it, and what can be done."""
    names = ", ".join(lost.names) or "no named version"
    models = f"; {lost.num_models} models were made from it" if lost.num_models else ""
    again = (
        "run its recipe again to make it anew"
        if lost.is_rebuildable
        else "no stage made it: take it in again, or fetch it from a copy"
    )
    return f"{lost.artifact} ({names}): {lost.what}{models}; {again}"
