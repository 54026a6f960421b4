"""Who may use the embedded STT: holders of a key, or of a short-lived token that such a holder asked for."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import jwt

from rtcstt.errors import CallerError, ConfigError
from rtcstt.wire import bad_request

MAX_TOKEN_S = 3600


class Keys:
    """``keys`` empty: anybody may come, which only a server on loopback should allow."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self._keys = keys
        self._secret = secrets.token_bytes(32)  # tokens are good for this server's life at most

    @classmethod
    def read(cls, path: Path) -> Keys:
        """One key a line; empty lines and comments (#) are left out. `ConfigError` when there is none."""
        try:
            lines = [line.strip() for line in path.read_text().splitlines()]
        except OSError as error:
            raise ConfigError(f"the key file cannot be read: {error}") from error
        keys = tuple(line for line in lines if line and not line.startswith("#"))
        if not keys:
            raise ConfigError(f"the key file {path} holds no key")
        return cls(keys)

    @property
    def required(self) -> bool:
        return bool(self._keys)

    def check(self, headers: Mapping[str, str], query: Mapping[str, str]) -> None:
        """`CallerError` 401 unless the request carries a key or a token of ours."""
        if not self._keys:
            return
        given = _given(headers, query)
        if not given or not (self._is_key(given) or self._is_token(given)):
            raise _unauthorized()

    def grant(self, headers: Mapping[str, str], query: Mapping[str, str], body: object) -> str:
        """A token for somebody who has a key, as `POST /access-token` asks for it."""
        given = _given(headers, query)
        if self._keys and not (given and self._is_key(given)):
            raise _unauthorized()
        grants = body.get("grants") if isinstance(body, dict) else None
        if not isinstance(grants, dict) or grants.get("stt") is not True:
            raise bad_request('grants must be {"stt": true}: this server does nothing else.')
        expires_in = body.get("expires_in", 60) if isinstance(body, dict) else None
        if (
            isinstance(expires_in, bool)
            or not isinstance(expires_in, int)
            or not 0 < expires_in <= MAX_TOKEN_S
        ):
            raise bad_request(f"expires_in must be a whole number of seconds, at most {MAX_TOKEN_S}.")
        claims = {"grants": {"stt": True}, "exp": int(time.time()) + expires_in}
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def _is_key(self, given: str) -> bool:
        return any(hmac.compare_digest(_bytes(given), _bytes(key)) for key in self._keys)

    def _is_token(self, given: str) -> bool:
        try:
            claims = jwt.decode(
                _bytes(given), self._secret, algorithms=["HS256"], options={"require": ["exp"]}
            )
        except jwt.InvalidTokenError:
            return False
        return bool(claims.get("grants", {}).get("stt"))


def _given(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and bearer:
        return bearer.strip()
    return headers.get("X-API-Key") or query.get("access_token") or query.get("api_key")


def _bytes(text: str) -> bytes:
    """Headers may hold any bytes; aiohttp keeps those that are no UTF-8 as surrogates."""
    return text.encode("utf-8", "surrogateescape")


def _unauthorized() -> CallerError:
    return CallerError(401, "unauthorized", "Unauthorized", "A valid API key or access token is needed.")
