"""Every error that this platform raises on purpose. A class for each reaction.

InterloomError
├── ConfigError      the request or recipe is wrong: fix it
├── DataError        the input is wrong: fix or drop the data; a retry cannot help
├── CrashError       a stage has a bug or was built wrongly: report it
├── MissingError     something optional is not installed or not there: the message says what next
└── TransientError   the world is wrong: the same request may succeed later
    ├── PreemptedError   told to end, and everything is saved: run again
    └── LeaseLostError   another runner took over this stage
"""


class InterloomError(Exception):
    """Base class, for callers that only want to tell our errors from bugs."""


class ConfigError(InterloomError):
    """A recipe, a setting or an argument contradicts itself or is out of range."""


class DataError(InterloomError):
    """The input breaks its contract; a retry cannot help."""


class CrashError(InterloomError):
    """A stage ended by an error that nobody raised on purpose; a retry cannot help."""


class MissingError(InterloomError):
    """A file, a package or an artifact that is needed is not there."""


class TransientError(InterloomError):
    """A resource was away; worth retrying."""


class LeaseLostError(TransientError):
    """Another runner took over the stage that this one was executing."""


class PreemptedError(TransientError):
    """A stage was told to end, and saved what it had; it goes on from there."""
