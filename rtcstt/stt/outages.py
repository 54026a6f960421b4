"""What happens when an STT is away or refuses, as the listeners are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from rtcstt.errors import ConnectionLost, RemoteProtocolError, UpstreamError
from rtcstt.events import AnyEvent, ErrorEvent, SttReconnecting, SttRecovered
from rtcstt.media.pcm import SAMPLE_RATE
from rtcstt.stt.failover import Failover, Verdict
from rtcstt.stt.seam import Stt
from rtcstt.stt.transcription import Transcription

_log = logging.getLogger(__name__)


class Outages:
    """Failures go to the `Failover`, and what it makes of them becomes events. ``on_news`` is called when
    there are any."""

    def __init__(
        self,
        failover: Failover,
        engines: Sequence[Stt],
        core: Transcription,
        *,
        track: str,
        on_news: Callable[[], None],
    ) -> None:
        self.failover = failover
        self.failure: UpstreamError | None = None
        "Why there will be no text any more, once that is so."
        self.last_error: UpstreamError | None = None
        self.recoveries = 0
        self._engines, self._core, self._track, self._on_news = engines, core, track, on_news

    @property
    def engine(self) -> Stt:
        """The STT to be tried next, or in use."""
        return self._engines[self.failover.engine]

    def choose(self) -> Stt:
        """The STT for the next attempt."""
        if self.failover.choose(asyncio.get_running_loop().time()):
            _log.info("fallback %s takes over from %s", self.engine.name, self._engines[0].name)
        return self.engine

    def lost(self, error: BaseException) -> None:
        """A connection ended with this."""
        self.failed(_as_upstream_error(error))

    def failed(self, error: UpstreamError) -> None:
        """No connection, for now or for good."""
        now = asyncio.get_running_loop().time()
        if not error.retryable:
            _log.warning("STT %s refused: %s", self.engine.name, _brief(error))
            if self.failover.refused(now) is Verdict.GIVE_UP:
                self.give_up(error)
            else:
                self._announce_error(error)
            return
        self.failover.failed(now)
        self.last_error = error
        attempt, engine, reason = self.failover.attempts, self.engine.name, _brief(error)
        _log.info("STT %s: attempt %d after %s", engine, attempt, reason)
        self._announce(SttReconnecting(track=self._track, attempt=attempt, reason=reason, engine=engine))

    def give_up(self, error: UpstreamError) -> None:
        self.failure = error
        self._announce_error(error)
        self._core.give_up()
        self._on_news()

    def _announce(self, event: AnyEvent) -> None:
        self._core.announce(event)
        self._on_news()

    def _announce_error(self, error: UpstreamError) -> None:
        self._announce(
            ErrorEvent(
                track=self._track,
                title="The speech-to-text service refused",
                message=str(error),
                status_code=error.status or 502,
                error_code=error.code or "",
                engine=self.engine.name,
            )
        )

    def recovered(self) -> None:
        """A connection is up."""
        if not self.failover.in_outage:
            return
        self.recoveries += 1
        lag, lost = round(self._core.lag_s, 3), round(self._core.account.take_missing() / SAMPLE_RATE, 3)
        attempts, engine = self.failover.attempts, self.engine.name
        _log.info("STT %s after %d attempts, %.1f s behind", engine, attempts, lag)
        self._announce(SttRecovered(track=self._track, lag=lag, attempts=attempts, lost=lost, engine=engine))


def _as_upstream_error(error: BaseException) -> UpstreamError:
    if isinstance(error, UpstreamError):
        return error
    if isinstance(error, RemoteProtocolError):
        return UpstreamError(f"protocol error: {error}")
    _log.error("the stream to the STT failed", exc_info=error)  # a bug here: the call must not pay for it
    return UpstreamError("internal error")


def _brief(error: UpstreamError) -> str:
    """Without the peer's prose: it may quote what was said."""
    if error.status is not None:
        return f"HTTP {error.status}"
    if isinstance(error, ConnectionLost) and error.close_code != 1006:
        return f"connection lost ({error.close_code})"
    return str(error)[:120]
