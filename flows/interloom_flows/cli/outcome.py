"""How a command ends: an exit code, and one clear line for every error that is expected."""

import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from interloom.core.errors import (
    ConfigError,
    DataError,
    InterloomError,
    MissingError,
    TransientError,
)

USAGE = 2
INTERRUPTED = 130
_CODES: tuple[tuple[type[InterloomError], int], ...] = (
    (ConfigError, 64),
    (DataError, 65),
    (MissingError, 69),
    (TransientError, 75),
)


def exit_code_of(error: InterloomError) -> int:
    """64 config, 65 data, 69 missing, 75 transient: as sysexits.h has them."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), 1)


def conclude(command: Callable[[], int | None], say: Callable[[str], None], home: Path) -> int:
    """Run a command and turn what comes of it into an exit code.

    Args:
        command: Gives an exit code, or None for success.
        say: Shows one line to the user, on standard error.
        home: A crash leaves its traceback in ``home/logs``.
    """
    try:
        return command() or 0
    except InterloomError as error:
        say(f"interloom: {' '.join(str(error).split())}")
        return exit_code_of(error)
    except KeyboardInterrupt:
        say("interloom: interrupted; run the same command again and it goes on from where it was")
        return INTERRUPTED
    except BrokenPipeError:
        return 0  # whoever read our output has seen enough
    except Exception as error:  # noqa: BLE001  a bug: say so, and keep what is needed to mend it
        if (usage := _usage_message(error)) is not None:
            say(f"interloom: {usage}; see interloom --help")
            return USAGE
        say(f"interloom: this is a bug: {type(error).__name__}: {error}; see {_log(error, home)}")
        return 1


def _usage_message(error: Exception) -> str | None:
    """What the parser of the command line says; its exceptions have a message for users."""
    format_message = getattr(error, "format_message", None)
    if format_message is None:
        return None
    return " ".join(str(format_message()).split()).rstrip(".")


def _log(error: Exception, home: Path) -> Path:
    """Write the traceback; gives the file."""
    folder = home / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"crash-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.log"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return path
