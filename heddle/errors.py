"""Every error that Heddle raises on purpose.

A `HeddleError` is the user's to mend: its message says what happened, where, and what to do about
it.
A failed `assert` is ours. The server maps these classes to HTTP statuses in `server/failures.py`,
the command line prints the message alone.

    HeddleError
    ├── ConfigError            a setting is unknown or out of range
    ├── WeightsError           a checkpoint is corrupt, truncated or of an unsupported kind
    ├── DataError              training data are missing, corrupt or made for another tokenizer
    ├── DownloadError          a model could not be fetched or failed its hash check
    ├── StorageError           no space, no permission, a read-only folder
    ├── RequestError           a request cannot be served as it stands
    │   └── ContextLengthError prompt and answer do not fit the model's context
    ├── BusyError              every place is taken for now: try again later
    │   └── QuotaError         one caller has under way what it may have
    ├── RemoteError            a server answered a client with an error
    ├── EngineError            generation failed for a reason that is not the request's
    └── TrainingError          training cannot go on: losses that are not finite, a lost process
"""


class HeddleError(Exception):
    """Something the user can mend; `str(error)` is one clear sentence."""


class ConfigError(HeddleError):
    """A setting is unknown or out of range."""


class WeightsError(HeddleError):
    """A checkpoint is corrupt, truncated or of an unsupported kind."""


class DataError(HeddleError):
    """Training data are missing, corrupt or made for another tokenizer."""


class DownloadError(HeddleError):
    """A model could not be fetched, or what came is not what was asked for."""


class StorageError(HeddleError):
    """A file could not be written: no space, no permission, a read-only folder."""


class RequestError(HeddleError):
    """A request cannot be served as it stands.

    `parameter` names the request's field, dotted as in `messages.0.role`; `code` is a stable word
    for programs.
    """

    def __init__(self, message: str, *, parameter: str | None = None, code: str | None = None):
        super().__init__(message)
        self.parameter = parameter
        self.code = code


class ContextLengthError(RequestError):
    """Prompt and answer do not fit the model's context."""


class BusyError(HeddleError):
    """Every place is taken for now; `retry_after_s` is when to try again."""

    def __init__(self, message: str, *, retry_after_s: float):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QuotaError(BusyError):
    """A caller has as much under way as it may have."""


class RemoteError(HeddleError):
    """A server answered a client with an error; `status` is its HTTP status, 0 when none came."""

    def __init__(self, message: str, *, status: int, code: str | None = None):
        super().__init__(message)
        self.status = status
        self.code = code


class EngineError(HeddleError):
    """Generation failed for a reason that is not the request's."""


class TrainingError(HeddleError):
    """Training cannot go on: losses that are not finite, no more data, a lost process."""
