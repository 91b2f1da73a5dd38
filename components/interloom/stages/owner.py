"""Who holds a lease, and whether that process is known to be dead.

A runner that was killed leaves its lease behind. Others wait for its heartbeat to grow old, unless
they can see for themselves that its process is gone: same boot, same process namespace, no such
process. Where ``/proc`` does not tell, nobody is declared dead.
"""

import os
import socket
from pathlib import Path

_PROC = Path("/proc")


def owner_of(run_id: str) -> str:
    """The name under which this process takes the lease of a run; no two are equal."""
    pid = os.getpid()
    return "|".join((socket.gethostname(), _space(), str(pid), _started(pid) or "?", run_id))


def is_dead(owner: str) -> bool:
    """Whether the process that took a lease under this name is certainly gone."""
    parts = owner.split("|")
    if len(parts) != 5 or not parts[2].isdigit():
        return False
    _, space, pid, started, _ = parts
    if space != _space() or "?" in {space, started}:
        return False
    return _started(int(pid)) != started


def _space() -> str:
    """This boot of this machine and its namespace of processes; ``?`` if that is not known."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return "?"


def _started(pid: int) -> str | None:
    """When a process began, in ticks since boot; None if there is no such process."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return None if state == "Z" else rest[18]
