"""Who may do what: one authenticator for every route and WebSocket."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, cast

import jwt

from rtcstt.errors import CallerError, ConfigError, bad_request

log = logging.getLogger(__name__)

MAX_ACCESS_TOKEN_S = 3600
READING_TOKEN_S = 24 * 3600.0
MAX_CREDENTIAL = 4096  # characters of a token; a longer one is not looked at
SHORT_TOKEN = 16
MIN_TOKEN = 4
MIN_SECRET = 32
_REGISTERED = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti"})  # RFC 7519 section 4.1
_CLAIMS = _REGISTERED | {"label", "may-publish", "may-listen"}


class Permission(Enum):
    """What a route needs; the value says it to people."""

    PUBLIC = "nothing"
    LISTEN = "listen"
    PUBLISH = "publish"
    TRANSCRIBE = "transcribe"
    ISSUE = "issue access tokens"
    MONITOR = "monitor"


_ALL = frozenset(Permission)


@dataclass(frozen=True, slots=True)
class Grant:
    """What the bearer of a request's token may do.

    ``label``, ``call``: the only calls they get to know of, where their token says so. ``identity``: whose
    token it is, as a digest that may be stored; empty where no token is needed. ``expires``: Unix time.
    """

    permissions: frozenset[Permission] = _ALL
    label: str | None = None
    identity: str = ""
    expires: float | None = None
    call: str | None = None

    def may(self, permission: Permission) -> bool:
        return permission is Permission.PUBLIC or permission in self.permissions

    @property
    def may_listen(self) -> bool:
        return self.may(Permission.LISTEN)


PUBLIC = Grant(frozenset())


class Authenticator:
    """Static tokens, which may do everything; JWTs (HS256) with the claims `exp`, `label`, `may-publish` and
    `may-listen`; API keys, which are for the speech-to-text endpoints alone; and short-lived access tokens
    for the same endpoints, which holders of the others have issued.

    With any of the first three every route asks for one. Without, everybody may do everything, which only
    suits loopback. ``access_secret`` signs the access tokens: by default they end with this object;
    processes that serve one port share one, and so do servers that share their calls.
    """

    def __init__(
        self,
        tokens: tuple[str, ...] = (),
        jwt_secret: str | None = None,
        api_keys: tuple[str, ...] = (),
        *,
        access_secret: bytes | None = None,
    ) -> None:
        self._tokens = tokens
        self._jwt_secret = jwt_secret
        self._api_keys = api_keys
        self._access_secret = access_secret or secrets.token_bytes(32)

    @classmethod
    def open(
        cls,
        token_file: Path | None,
        jwt_secret_file: Path | None = None,
        api_key_file: Path | None = None,
        *,
        access_secret: bytes | None = None,
    ) -> Authenticator:
        """From the files; `ConfigError` when one cannot be read or holds what protects nothing."""
        tokens = _tokens_of(token_file) if token_file else ()
        keys = _tokens_of(api_key_file) if api_key_file else ()
        secret = read_lines(jwt_secret_file)[0] if jwt_secret_file else None
        if secret is not None and len(secret) < MIN_SECRET:
            raise ConfigError(f"{jwt_secret_file}: the secret must have at least {MIN_SECRET} characters")
        return cls(tokens, secret, keys, access_secret=access_secret)

    def share(self, access_secret: bytes) -> None:
        """From now on access tokens are those of several servers."""
        self._access_secret = access_secret

    @property
    def is_guarded(self) -> bool:
        """Whether a token is needed."""
        return self.may_publish_at_all or bool(self._api_keys)

    @property
    def may_publish_at_all(self) -> bool:
        """Whether there is any token that may place calls."""
        return bool(self._tokens) or self._jwt_secret is not None

    def authenticate(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Grant:
        """What a request's token allows; `CallerError` 401 without a valid one."""
        return self.admit(credential(headers, query))

    def admit(self, given: str | None) -> Grant:
        """What a token allows; `CallerError` 401 when it is not valid, or missing where one is needed."""
        if not self.is_guarded:
            return Grant()
        if not given:
            raise _unauthorized()
        if len(given) > MAX_CREDENTIAL:
            raise _unauthorized()
        token = given.encode("utf-8", "surrogateescape")  # aiohttp keeps what is not UTF-8 so
        if _is_one_of(token, self._tokens):
            return Grant(identity=_digest("token", given))
        if _is_one_of(token, self._api_keys):
            speech = frozenset({Permission.TRANSCRIBE, Permission.ISSUE})
            return Grant(speech, identity=_digest("key", given))
        grant = self._issued(token)
        if grant is None and self._jwt_secret is not None:
            grant = self._signed(token, given, self._jwt_secret)
        if grant is None:
            raise _unauthorized()
        return grant

    def issue(self, grant: Grant, wanted: object) -> str:
        """An access token, as `POST /access-token` asks for it; `CallerError` 400 when what is ``wanted``
        cannot be. It does not outlive the token that asked for it, and may not ask for another."""
        grants = wanted.get("grants") if isinstance(wanted, dict) else None
        if not isinstance(grants, dict) or grants.get("stt") is not True:
            raise bad_request('grants must be {"stt": true}: this server does nothing else.')
        expires_in = wanted.get("expires_in", 60) if isinstance(wanted, dict) else None
        if (
            isinstance(expires_in, bool)
            or not isinstance(expires_in, int)
            or not 0 < expires_in <= MAX_ACCESS_TOKEN_S
        ):
            raise bad_request(f"expires_in must be a whole number of seconds, at most {MAX_ACCESS_TOKEN_S}.")
        until = time.time() + expires_in
        if grant.expires is not None:
            until = min(until, grant.expires)
        claims = {"grants": {"stt": True}, "exp": int(until)}
        return jwt.encode(claims, self._access_secret, algorithm="HS256")

    def reading_token(self, grant: Grant, call: str) -> str | None:
        """A token to read one call with, for `READING_TOKEN_S`; it does not outlive the token that asked for
        it. None where no token is needed."""
        if not self.is_guarded:
            return None
        until = time.time() + READING_TOKEN_S
        if grant.expires is not None:
            until = min(until, grant.expires)
        claims = {"grants": {"read": call}, "exp": int(until)}
        return jwt.encode(claims, self._reading_secret, algorithm="HS256")

    @property
    def _reading_secret(self) -> bytes:
        """The same on every server with the same secrets, and after a restart; unless they could be guessed
        by trying, with a token at hand."""
        known = [self._jwt_secret] if self._jwt_secret is not None else list(self._tokens)
        if not known or min(map(len, known)) < SHORT_TOKEN:
            return self._access_secret
        return hashlib.sha256("\n".join(["rtcstt reading token", *known]).encode()).digest()

    def _issued(self, token: bytes) -> Grant | None:
        """Of a token that `issue` or `reading_token` made."""
        claims = _claims(token, self._access_secret)
        if claims is None:
            claims = _claims(token, self._reading_secret)
        grants = claims.get("grants") if claims is not None else None
        if claims is None or not isinstance(grants, dict):
            return None
        until = _expiry(claims)
        if isinstance(grants.get("read"), str):
            return Grant(frozenset({Permission.LISTEN}), expires=until, call=grants["read"])
        return Grant(frozenset({Permission.TRANSCRIBE}), expires=until) if grants.get("stt") is True else None

    def _signed(self, token: bytes, given: str, secret: str) -> Grant | None:
        try:
            claims = jwt.decode(token, secret, algorithms=["HS256"], options={"require": ["exp"]})
        except jwt.ExpiredSignatureError:
            raise _unauthorized("token_expired", "The token has expired.") from None
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            return None
        return _grant_of(claims, given)


def credential(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """The token of a request. Browsers send no headers of one's own with a WebSocket or an EventSource, so
    the query may hold it."""
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and bearer.strip():
        return bearer.strip()
    return headers.get("X-API-Key") or query.get("access_token") or query.get("api_key")


def is_signed(token: str) -> bool:
    """Whether it has the form of a JWT, which nobody can guess: its secret has `MIN_SECRET` characters."""
    return token.count(".") == 2 and token.startswith("eyJ")


def _grant_of(claims: Mapping[str, object], given: str) -> Grant:
    """Of a valid JWT. A claim that is not known may be a misspelt restriction, so it is refused."""
    unknown = sorted(str(name)[:40] for name in claims.keys() - _CLAIMS)
    if unknown:
        raise _unauthorized("unknown_claim", f"The token has a claim that is not known: {unknown[0]!r}.")
    for name in ("may-publish", "may-listen"):
        if not isinstance(claims.get(name, True), bool):
            raise _unauthorized("bad_claim", f"The claim {name} must be true or false.")
    label = claims.get("label")
    if label is not None and not (isinstance(label, str) and 0 < len(label) <= 200):
        raise _unauthorized("bad_claim", "The claim label must be a text of at most 200 characters.")
    permissions = set()
    if claims.get("may-publish", True):
        permissions |= {Permission.PUBLISH, Permission.TRANSCRIBE, Permission.ISSUE}
    if claims.get("may-listen", True):
        permissions |= {Permission.LISTEN} | ({Permission.MONITOR} if label is None else set())
    subject = claims.get("sub")
    identity = _digest("sub", subject) if isinstance(subject, str) and subject else _digest("token", given)
    return Grant(frozenset(permissions), label, identity, _expiry(claims))


def _expiry(claims: Mapping[str, object]) -> float:
    """In s of UNIX time; `_claims` takes no other."""
    return float(cast(float, claims["exp"]))


def _claims(token: bytes, secret: bytes) -> dict[str, Any] | None:
    """Of a valid JWT; None when it is not."""
    try:
        claims: dict[str, Any] = jwt.decode(token, secret, algorithms=["HS256"], options={"require": ["exp"]})
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        return None
    return claims


def _digest(kind: str, text: str) -> str:
    return hashlib.sha256(f"{kind}:{text}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _is_one_of(given: bytes, known: tuple[str, ...]) -> bool:
    return any([hmac.compare_digest(given, one.encode()) for one in known])  # all, whichever it is


def _unauthorized(
    code: str = "unauthorized", message: str = "A valid bearer token is needed."
) -> CallerError:
    return CallerError(401, code, "Unauthorized", message)


def _tokens_of(path: Path) -> tuple[str, ...]:
    lines = tuple(read_lines(path))
    if any(len(line) < MIN_TOKEN for line in lines):
        raise ConfigError(f"{path}: a token of fewer than {MIN_TOKEN} characters protects nothing")
    short = sum(len(line) < SHORT_TOKEN for line in lines)
    if short:
        log.warning(
            "%s: %d of %d tokens have fewer than 16 characters and can be guessed; take"
            " `openssl rand -hex 16`",
            path,
            short,
            len(lines),
        )
    return lines


def read_lines(path: Path) -> list[str]:
    """A file of secrets, one a line; empty lines and comments (#) are left out. `ConfigError` without any."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"{path} cannot be read: {reason}") from error
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise ConfigError(f"{path} holds nothing")
    if mode & 0o004:
        log.warning("%s can be read by every user of this machine: chmod o-r", path)
    return found
