"""Who may come in: bearer tokens, signed tokens, and how often one address may knock."""

from __future__ import annotations

import hmac
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jwt

from rtcstt.errors import CallerError, ConfigError

MAX_ADDRESSES = 4096


@dataclass(frozen=True, slots=True)
class Grant:
    """What a client may do. ``label`` names his calls, where his token says how."""

    may_publish: bool = True
    may_listen: bool = True
    label: str | None = None


class Authenticator:
    """Static tokens (the lines of a file), and JWTs (HS256) with the claims `label`, `may-publish`,
    `may-listen` and `exp`. Without either everybody may do everything, which only suits loopback."""

    def __init__(self, tokens: tuple[str, ...] = (), jwt_secret: str | None = None) -> None:
        self._tokens = tokens
        self._jwt_secret = jwt_secret

    @classmethod
    def open(cls, token_file: Path | None, jwt_secret_file: Path | None) -> Authenticator:
        tokens = tuple(read_lines(token_file)) if token_file else ()
        secret = read_lines(jwt_secret_file)[0] if jwt_secret_file else None
        if secret is not None and len(secret) < 32:
            raise ConfigError(f"{jwt_secret_file}: the secret must have at least 32 characters")
        return cls(tokens, secret)

    @property
    def is_guarded(self) -> bool:
        return bool(self._tokens) or self._jwt_secret is not None

    @property
    def tokens(self) -> tuple[str, ...]:
        return self._tokens

    def admit(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Grant:
        """What the bearer of a request's token may do; `CallerError` 401 without a good one. Event streams
        may carry it in the query (`access_token`), since a browser's EventSource sends no headers."""
        if not self.is_guarded:
            return Grant()
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else query.get("access_token", "")
        given = given.encode("utf-8", "backslashreplace").decode()  # aiohttp leaves in what is no UTF-8
        if given and any(hmac.compare_digest(given.encode(), token.encode()) for token in self._tokens):
            return Grant()
        if given and self._jwt_secret is not None:
            return self._signed(given)
        raise CallerError(401, "unauthorized", "Unauthorized", "A valid bearer token is needed.")

    def _signed(self, token: str) -> Grant:
        assert self._jwt_secret is not None
        try:
            claims = jwt.decode(token, self._jwt_secret, algorithms=["HS256"], options={"require": ["exp"]})
        except jwt.ExpiredSignatureError:
            raise CallerError(401, "token_expired", "Unauthorized", "The token has expired.") from None
        except jwt.InvalidTokenError:
            raise CallerError(
                401, "unauthorized", "Unauthorized", "A valid bearer token is needed."
            ) from None
        label = claims.get("label")
        return Grant(
            may_publish=claims.get("may-publish", True) is True,
            may_listen=claims.get("may-listen", True) is True,
            label=str(label)[:200] if label is not None else None,
        )


class RateLimiter:
    """How often each address came in the last minute; a core, time is an argument."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str, now: float) -> None:
        """Count one; `CallerError` 429 when it is one too many."""
        times = self._seen.setdefault(address, deque(maxlen=self._per_minute))
        self._seen.move_to_end(address)
        if len(self._seen) > MAX_ADDRESSES:
            self._seen.popitem(last=False)
        if len(times) == self._per_minute and now - times[0] < 60:
            wait = int(60 - (now - times[0])) + 1
            message = f"At most {self._per_minute} offers a minute are taken from one address."
            raise CallerError(429, "too_many_offers", "Too many offers", message, retry_after_s=wait)
        times.append(now)


def read_lines(path: Path) -> list[str]:
    """A file of secrets, one a line; empty lines and comments (#) are left out. `ConfigError` without any."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise ConfigError(f"{path} holds nothing")
    return found
