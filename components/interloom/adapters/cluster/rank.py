"""One rank of a stage in a pod: find the others by the catalog, then become the stage.

``python -m interloom.adapters.cluster.rank MEETING RANK NUM_RANKS -- COMMAND...``. No DNS, no
Service and no indexed Job is needed: each rank writes its pod's address into the catalog.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from interloom.adapters.catalog.rendezvous import Rendezvous
from interloom.adapters.cluster.pods import REPLACES_ANOTHER
from interloom.config.environment import environment
from interloom.core.errors import InterloomError, TransientError

PORT = 29500  # of rank 0, in a network of its own
_WAIT_S = 900.0
_EVERY_S = 0.5


class PodSettings(BaseSettings):
    """What the launcher tells a rank's pod.

    Attributes:
        pod_ip: Where the others reach it.
        pod_uid: Tells it from a pod that takes its place.
        database_url: The catalog.
    """

    model_config = SettingsConfigDict(env_prefix="INTERLOOM_", frozen=True, extra="ignore")

    pod_ip: str = Field(min_length=1)
    pod_uid: str = Field(min_length=1)
    database_url: SecretStr


class ReplacementError(InterloomError):
    """Another pod was this rank; the others may have talked to it already."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which rank of how many, in which meeting."""

    meeting: str
    rank: int
    num_ranks: int


def meet(
    rendezvous: Rendezvous,
    place: Place,
    *,
    pod: PodSettings,
    wait_s: float = _WAIT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Announce this rank and wait until all have come; gives the address of rank 0.

    Raises:
        ReplacementError: Another pod was this rank.
        TransientError: Some did not come in time; names them.
    """
    if not rendezvous.announce(place.meeting, place.rank, member=pod.pod_uid, address=pod.pod_ip):
        raise ReplacementError(
            f"rank {place.rank} was announced by another pod: start all ranks again"
        )
    waited_s = 0.0
    while len(found := rendezvous.addresses(place.meeting)) < place.num_ranks:
        if waited_s >= wait_s:
            missing = sorted(set(range(place.num_ranks)) - set(found))
            raise TransientError(
                f"rank {place.rank} of {place.num_ranks} waited {wait_s:.0f} s "
                f"in vain for ranks {missing}"
            )
        sleep(_EVERY_S)
        waited_s += _EVERY_S
    return found[0]


def group_environment(place: Place, address: str) -> dict[str, str]:
    """What torchrun would set for the only process of its node."""
    return {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.num_ranks),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": str(place.rank),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(PORT),
        "TORCHELASTIC_RUN_ID": place.meeting,
    }


def main(arguments: Sequence[str]) -> int:
    """Meet the others and become the command; returns only when that fails."""
    meeting, rank, num_ranks, _dashes, *command = arguments
    place = Place(meeting, int(rank), int(num_ranks))
    pod = PodSettings.model_validate({})
    rendezvous = Rendezvous.connect(pod.database_url.get_secret_value())
    try:
        address = meet(rendezvous, place, pod=pod)
    except ReplacementError as error:
        sys.stderr.write(f"{error}\n")
        return REPLACES_ANOTHER  # the attempt has to end as a whole
    except TransientError as error:
        sys.stderr.write(f"{error}\n")
        return 75
    finally:
        rendezvous.close()
    kept = {name: value for name, value in environment().items() if "DATABASE_URL" not in name}
    told = group_environment(place, address)
    os.execvpe(command[0], command, kept | told)  # noqa: S606 - our own words, no shell
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
