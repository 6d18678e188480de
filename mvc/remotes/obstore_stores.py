"""From a URL and an environment to a store of obstore: credentials, endpoints and limits of time.

Credentials come from the environment that we are given, and nowhere else, unless that, or the setting
``credentials = "machine"``, says that the machine itself has a role.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from mvc.errors import AuthenticationError, InvalidInputError
from mvc.remotes.schemes import RemoteUrl

if TYPE_CHECKING:  # these exist for type checkers only
    from obstore.store import (
        AzureConfig,
        ClientConfig,
        GCSConfig,
        ObjectStore,
        RetryConfig,
        S3Config,
        S3CredentialProvider,
    )

__all__ = ["PIECE", "open_store", "settings"]

PIECE: Final = 8 << 20
"""Bytes of one request at most: what is lost when a connection breaks, and what has to pass within `_TIMEOUT`."""

_TIMEOUT: Final = timedelta(minutes=5)
"""Of one request with its bodies: 28 kB/s for `PIECE`. It is also how long a connection that has died is waited for."""
_CONNECT_TIMEOUT: Final = timedelta(seconds=10)
"""To reach the other side at all: three times the second in which TCP repeats itself first, and then some."""
_RETRIES: Final = 5
"""After a broken connection or a status of 500 and above: with doubling waits some seconds at most, then the user is
told, and can try again; nothing that was stored is lost."""
_RETRY_TIMEOUT: Final = timedelta(minutes=4)
"""From the first try to the last: obstore asks for less than 5 minutes, after which signatures grow old."""
_RETRY: Final[RetryConfig] = {"max_retries": _RETRIES, "retry_timeout": _RETRY_TIMEOUT}


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of store is told what it needs.

    Parameters
    ----------
    variables : mapping of str to str
        Environment variable -> setting of obstore; of several for one setting, the first that is there.
    endpoint : str
        The setting that holds where the store is, if it is not the vendor's.
    proofs : tuple of str
        Settings of which one must be there.
    fixed : mapping of str to object
        Settings that are always the same.
    """

    variables: Mapping[str, str]
    endpoint: str
    proofs: tuple[str, ...]
    fixed: Mapping[str, object]


_KINDS: Final[Mapping[str, _Kind]] = {
    "s3": _Kind(
        {
            "AWS_ACCESS_KEY_ID": "access_key_id",
            "AWS_SECRET_ACCESS_KEY": "secret_access_key",
            "AWS_SESSION_TOKEN": "session_token",
            "AWS_REGION": "region",
            "AWS_DEFAULT_REGION": "region",
            "AWS_ENDPOINT_URL_S3": "endpoint",
            "AWS_ENDPOINT_URL": "endpoint",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "container_credentials_relative_uri",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "container_credentials_full_uri",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "container_authorization_token_file",
            "AWS_WEB_IDENTITY_TOKEN_FILE": "web_identity_token_file",
            "AWS_ROLE_ARN": "role_arn",
            "AWS_ROLE_SESSION_NAME": "role_session_name",
            "AWS_SKIP_SIGNATURE": "skip_signature",
        },
        "endpoint",
        (
            "secret_access_key",
            "container_credentials_relative_uri",
            "container_credentials_full_uri",
            "web_identity_token_file",
            "skip_signature",
        ),
        # Removing one key with one request: the bulk form wants checksums that not all servers agree about.
        {"disable_bulk_delete": True, "conditional_put": "etag", "region": "us-east-1", "skip_signature": "false"},
    ),
    "gs": _Kind(
        {
            "GOOGLE_SERVICE_ACCOUNT_KEY": "service_account_key",
            "GOOGLE_SERVICE_ACCOUNT": "service_account",
            "GOOGLE_SERVICE_ACCOUNT_PATH": "service_account",
            "GOOGLE_APPLICATION_CREDENTIALS": "application_credentials",
            "GOOGLE_ENDPOINT_URL": "base_url",
            "GOOGLE_BEARER_TOKEN": "bearer_token",
        },
        "base_url",
        ("service_account_key", "service_account", "application_credentials", "bearer_token"),
        {},
    ),
    "az": _Kind(
        {
            "AZURE_STORAGE_ACCOUNT_NAME": "account_name",
            "AZURE_STORAGE_ACCOUNT": "account_name",
            "AZURE_STORAGE_ACCOUNT_KEY": "account_key",
            "AZURE_STORAGE_KEY": "account_key",
            "AZURE_STORAGE_SAS_TOKEN": "sas_key",
            "AZURE_STORAGE_TOKEN": "token",
            "AZURE_CLIENT_ID": "client_id",
            "AZURE_CLIENT_SECRET": "client_secret",
            "AZURE_TENANT_ID": "tenant_id",
            "AZURE_FEDERATED_TOKEN_FILE": "federated_token_file",
            "AZURE_ENDPOINT_URL": "endpoint",
            "AZURE_SKIP_SIGNATURE": "skip_signature",
        },
        "endpoint",
        ("account_key", "sas_key", "token", "client_secret", "federated_token_file", "skip_signature"),
        {"skip_signature": "false"},
    ),
}


def settings(url: RemoteUrl, environment: Mapping[str, str]) -> dict[str, object]:
    """Return what a store is told, secrets included.

    Parameters
    ----------
    url : RemoteUrl
        Of scheme ``s3``, ``gs`` or ``az``. Its options are ``endpoint``, ``region`` and ``credentials``.
    environment : mapping of str to str
        Environment variables.

    Raises
    ------
    AuthenticationError
        If there are no credentials.
    InvalidInputError
        If the endpoint is no address.

    Examples
    --------
    >>> keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "eu-west-1"}
    >>> settings(RemoteUrl("s3://b/p", "s3", "b", "p"), keys)["region"]
    'eu-west-1'
    """
    kind = _KINDS[url.scheme]
    found: dict[str, object] = {}
    for variable, name in kind.variables.items():
        if environment.get(variable):
            found.setdefault(name, environment[variable])
    if not any(found.get(proof) for proof in kind.proofs) and url.options.get("credentials") != "machine":
        raise AuthenticationError(
            f"there are no credentials for {url.text}",
            hint='set AWS_…, GOOGLE_… or AZURE_… variables, or credentials = "machine" where the machine has a role: '
            "docs/guides/remotes.md",
        )
    if url.options.get("endpoint"):
        found[kind.endpoint] = url.options["endpoint"]
    if url.options.get("region") and url.scheme == "s3":
        found["region"] = url.options["region"]
    if kind.endpoint in found:
        _check_endpoint(str(found[kind.endpoint]))
    return {**kind.fixed, **found}


def _check_endpoint(endpoint: str) -> None:
    """Refuse what is no plain address, without repeating it: it may hold a password."""
    try:
        parts = urlsplit(endpoint)
        plain = parts.scheme in {"http", "https"} and parts.hostname and not parts.query and "@" not in parts.netloc
    except ValueError:
        plain = False
    if not plain:
        raise InvalidInputError("the endpoint of a remote is http://HOST or https://HOST, without name and password")


def open_store(url: RemoteUrl, environment: Mapping[str, str]) -> ObjectStore:
    """Return the store of a URL; nothing is asked of it yet.

    Raises
    ------
    AuthenticationError
        If there are no credentials.
    InvalidInputError
        If the URL or the settings are not usable.
    """
    prefix = url.path.removesuffix("/")
    if prefix and any(part in {"", ".", ".."} for part in prefix.split("/")):
        raise InvalidInputError(f"the path of {url.text} has parts that are empty or dots")
    config = settings(url, environment)
    encrypted = not str(config.get(_KINDS[url.scheme].endpoint, "")).startswith("http://")
    client: ClientConfig = {
        "allow_http": not encrypted,
        "timeout": _TIMEOUT,
        "connect_timeout": _CONNECT_TIMEOUT,
        "user_agent": "mvc",
    }
    try:
        return _OPENERS[url.scheme](url.host, prefix or None, config, client)
    except (BaseError, OSError, ValueError, TypeError) as error:  # their texts may quote what they were given
        raise InvalidInputError(f"obstore does not take the settings of {url.text} ({type(error).__name__})") from None


def _open_s3(bucket: str, prefix: str | None, config: dict[str, object], client: ClientConfig) -> ObjectStore:
    """Return a store of S3. Keys are handed over by a function: obstore completes settings from the process."""
    secret, token = config.pop("secret_access_key", None), config.pop("session_token", None)
    key = config.pop("access_key_id", "")
    identity = {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": None}
    return S3Store(
        bucket,
        prefix=prefix,
        config=cast("S3Config", config),
        client_options=client,
        retry_config=_RETRY,
        credential_provider=cast("S3CredentialProvider", lambda: identity) if secret else None,
    )


def _open_gs(bucket: str, prefix: str | None, config: dict[str, object], client: ClientConfig) -> ObjectStore:
    return GCSStore(bucket, prefix=prefix, config=cast("GCSConfig", config), client_options=client, retry_config=_RETRY)


def _open_az(container: str, prefix: str | None, config: dict[str, object], client: ClientConfig) -> ObjectStore:
    return AzureStore(
        container, prefix=prefix, config=cast("AzureConfig", config), client_options=client, retry_config=_RETRY
    )


_OPENERS: Final[Mapping[str, Callable[[str, str | None, dict[str, object], ClientConfig], ObjectStore]]] = {
    "s3": _open_s3,
    "gs": _open_gs,
    "az": _open_az,
}
