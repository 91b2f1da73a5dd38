"""Whether whoever holds a lease is known to be dead."""

import subprocess
import sys

from interloom.stages.owner import is_dead, owner_of

PROGRAM = "from interloom.stages.owner import owner_of; print(owner_of('r1'), flush=True); input()"


def test_this_process_is_alive_and_its_names_differ_by_run() -> None:
    assert not is_dead(owner_of("r1"))
    assert owner_of("r1") != owner_of("r2")


def test_a_process_is_dead_once_it_is_killed() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    owner = process.stdout.readline().strip()

    alive = is_dead(owner)
    process.kill()
    process.wait()

    assert (alive, is_dead(owner)) == (False, True)
    process.stdin.close()
    process.stdout.close()


def test_another_process_under_the_same_number_is_not_mistaken_for_it() -> None:
    host, space, pid, _, run_id = owner_of("r1").split("|")

    assert is_dead("|".join((host, space, pid, "1", run_id)))


def test_nobody_elsewhere_is_declared_dead() -> None:
    host, _, pid, started, run_id = owner_of("r1").split("|")

    assert not is_dead("|".join((host, "other-boot/pid:[1]", pid, started, run_id)))
    assert not is_dead("|".join((host, "?", "999999", started, run_id)))
    assert not is_dead("thief")
