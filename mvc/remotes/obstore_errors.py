"""What obstore reports, as errors of ours.

Its messages quote addresses, headers and whatever the other side answered: any of these may hold a secret. So nothing
of them is passed on but what stands in a vocabulary of our own: a status, the code of an error, the kind of a failure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from obstore.exceptions import AlreadyExistsError as TakenError
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from mvc.errors import AlreadyExistsError, AuthenticationError, IntegrityError, MvcError, NotFoundError, RemoteError

__all__ = ["MAKE_BUCKET", "failing", "translated"]

MAKE_BUCKET: Final = "make it first, with the tools of the store"
"""Hint where a bucket is missing."""

_STATUS: Final = re.compile(r"status code: ([1-5][0-9]{2})\b")
_CODE: Final = re.compile(r"<Code>([A-Za-z]{1,64})</Code>")
_FAILURE: Final = re.compile(r"HttpError \{\s*kind: (Connect|Request|Timeout|Interrupted|Decode)\b")
_REDIRECT: Final = "Received redirect without LOCATION"
_WHOLE: Final = "Received non-partial response"

_NO_BUCKET: Final = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"})
"""Codes of stores that have no such bucket; S3 and Google, then Azure."""
_PASSING: Final = frozenset({408, 429})
"""Statuses below 500 that pass: the request took too long, or there were too many."""
_REASONS: Final = {
    "Connect": "it cannot be reached",
    "Request": "the request could not be sent",
    "Timeout": "it did not answer in time",
    "Interrupted": "the connection broke",
    "Decode": "its answer broke off",
}


def translated(error: BaseException, key: str, url: str) -> MvcError:
    """Return our error for one of obstore's, without any text that came from outside.

    Parameters
    ----------
    error : BaseException
        A `BaseError` of obstore or an OSError.
    key : str
        What was asked for; empty if the place as a whole.
    url : str
        Where.

    Returns
    -------
    MvcError
        NotFoundError, AlreadyExistsError, AuthenticationError, RemoteError; IntegrityError for ranges beyond the end.
    """
    text, what = str(error), f"{key} of {url}" if key else url
    found = _STATUS.search(text)
    status, code = int(found[1]) if found else 0, _code(text)
    if code in _NO_BUCKET:
        return RemoteError(f"{what}: there is no such bucket", hint=MAKE_BUCKET)
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{what} does not exist")
    if isinstance(error, TakenError):
        return AlreadyExistsError(f"{what} exists")
    if status in {401, 403} or isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return AuthenticationError(f"{what}: we are not let in{_named(code)}", hint="check the credentials")
    if status == 416:
        return IntegrityError(f"{what} ends too early")
    if status:
        passing = status >= 500 or status in _PASSING
        return RemoteError(f"{what}: it answered {status}{_named(code)}", transient=passing)
    if _WHOLE in text:
        return RemoteError(f"{what}: it does not answer with parts of objects, as it must")
    if _REDIRECT in text:
        return RemoteError(f"{what}: the bucket is in another region", hint="set AWS_REGION")
    failure = _FAILURE.search(text)
    reason = _REASONS[failure[1]] if failure else f"the request failed ({type(error).__name__})"
    return RemoteError(f"{what}: {reason}", transient=failure is not None)


def _code(text: str) -> str:
    found = _CODE.search(text)
    return found[1] if found else ""


def _named(code: str) -> str:
    return f" ({code})" if code else ""


@contextmanager
def failing(key: str, url: str) -> Iterator[None]:
    """Turn errors of obstore into ours; they are not chained, for a traceback would show their texts."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise translated(error, key, url) from None
