"""An STT elsewhere as the options name it, and its key; one place for all commands."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rtcstt.errors import ConfigError
from rtcstt.http.access import read_lines
from rtcstt.stt.cartesia import Cartesia
from rtcstt.stt.key import key_in
from rtcstt.stt.pool import Pool
from rtcstt.wire.hosts import is_loopback

log = logging.getLogger(__name__)


def remote_stt(base_url: str, environment: Mapping[str, str], key_file: Path | None = None) -> Cartesia:
    """`ConfigError` when ``base_url`` is none, or the file cannot be read."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.netloc:
        raise ConfigError(f"--stt takes embedded or the URL of a server, not {base_url}")
    key = stt_key(environment, key_file)
    if key is None and parts.scheme in ("https", "wss"):  # else only the first call would show it
        log.warning("no key for %s: set RTCSTT_STT_KEY or --stt-key-file", base_url)
    return Cartesia(api_key=key, base_url=base_url)


def remote_stts(
    base_urls: Sequence[str], environment: Mapping[str, str], key_file: Path | None = None
) -> Cartesia | Pool:
    """The least busy of several, or of those that have one name."""
    servers = [remote_stt(url, environment, key_file) for url in base_urls]
    only = servers[0]
    if len(servers) == 1 and is_loopback(urlsplit(only.base_url).hostname or ""):
        return only
    return Pool(servers)


def stt_key(environment: Mapping[str, str], file: Path | None = None) -> str | None:
    """The file's, else the environment's."""
    return read_lines(file)[0] if file is not None else key_in(environment)
