"""What an error of S3 means: try again, mend the settings, free some space.

No message holds a key, a signature or a signed address.
"""

import ssl

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, SSLError

from interloom.core.errors import ConfigError, InterloomError, TransientError

ABSENT = frozenset({"NoSuchKey", "NoSuchUpload", "ResourceNotFound"})
# A broken answer may be no XML; the parser's error is a SyntaxError.
EXPECTED = (MinioException, HTTPError, OSError, ValueError, SyntaxError)

_KEYS = "check INTERLOOM_S3_ACCESS_KEY and INTERLOOM_S3_SECRET_KEY"
_REFUSALS = {
    "AccessDenied": f"the keys are wrong, or may not do this; {_KEYS}",
    "BadRequest": (
        "it does not answer as S3 does; is it spoken to with http:// where it wants https://? "
        "Check INTERLOOM_S3_ENDPOINT"
    ),
    "AuthorizationHeaderMalformed": "the region is wrong; check INTERLOOM_S3_REGION",
    "ExpiredToken": "the session token has expired; renew it",
    "InvalidAccessKeyId": f"the server does not know this access key; {_KEYS}",
    "InvalidToken": "the session token is wrong; check INTERLOOM_S3_SESSION_TOKEN",
    "NoSuchBucket": "there is no such bucket; make it, or check INTERLOOM_STORE_ROOT",
    "NotImplemented": (
        "the server cannot do this; if it lacks conditional writes, set "
        "INTERLOOM_S3_CONDITIONAL_WRITES=false to let the catalog decide"
    ),
    "PermanentRedirect": "the bucket is in another region; check INTERLOOM_S3_REGION",
    "RequestTimeTooSkewed": "the clocks of this machine and of the server are too far apart",
    "SignatureDoesNotMatch": f"the secret key is wrong; {_KEYS}",
}
_FULL = frozenset(
    {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioBucketQuotaExceeded"}
)
_PASSING = frozenset(
    {
        *("SlowDown", "RequestTimeout", "TooManyRequests", "OperationAborted"),
        *("BadDigest", "InvalidDigest", "InvalidPart", "XAmzContentSHA256Mismatch"),
        *("IncompleteBody", "MalformedXML"),  # what was sent was damaged on the way
    }
)
_PLAIN_HTTP = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE")


class BrokenTransferError(HTTPError):
    """Other bytes arrived than were sent; worth another try."""


def final_error(error: Exception, where: str) -> Exception | None:
    """What to raise at once; None if another try may help.

    Args:
        error: One of ``EXPECTED``.
        where: The store, as the message names it.
    """
    if isinstance(error, SSLError | ssl.SSLError):
        return _tls_error(str(error), where)
    if isinstance(error, S3Error | ServerError | InvalidResponseError):
        return _answer_error(error, where)
    if isinstance(error, HTTPError | MinioException | SyntaxError | ConnectionError | TimeoutError):
        return None
    if isinstance(error, ValueError):
        return ConfigError(f"{where} {error}; check INTERLOOM_STORE_ROOT")
    return error  # a local file cannot be read or written


def status_of(error: Exception) -> int:
    """The HTTP status behind an error; 0 if there is none."""
    if isinstance(error, S3Error):
        return int(error.response.status)
    if isinstance(error, ServerError):
        return int(error.status_code)
    return int(getattr(error, "_code", 0))


def shown(error: Exception) -> str:
    """An error in few words, without the address that was asked."""
    if isinstance(error, S3Error):
        return f"{error.code}: {error.message}"
    if status := status_of(error):
        return f"status {status}"
    if isinstance(error, BrokenTransferError):
        return str(error)
    return type(error).__name__


def _answer_error(error: Exception, where: str) -> InterloomError | None:
    """What to raise for an answer that the server gave."""
    status = status_of(error)
    code = error.code if isinstance(error, S3Error) else None
    if code in _REFUSALS:
        return ConfigError(f"{where} refuses: {_REFUSALS[code]} ({code})")
    if code in _FULL or status == 507:
        return TransientError(f"{where} is full; free some space and run again")
    if status >= 500 or status == 429 or code in _PASSING:
        return None
    if code is None:
        return ConfigError(
            f"{where} does not answer as S3 does (status {status}); is it spoken to with http:// "
            "where it wants https://? Check INTERLOOM_S3_ENDPOINT"
        )
    return ConfigError(f"{where} refuses: {shown(error)}")


def _tls_error(message: str, where: str) -> ConfigError:
    if any(sign in message for sign in _PLAIN_HTTP):
        return ConfigError(
            f"{where}: TLS was asked for, but the server speaks plain HTTP; turn TLS on there, or "
            "set INTERLOOM_S3_ENDPOINT to http://..."
        )
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return ConfigError(
            f"{where}: the server's certificate is not trusted; name your authority's certificate "
            "in INTERLOOM_S3_CA_FILE"
        )
    return ConfigError(f"{where}: TLS failed: {message[:200]}")
