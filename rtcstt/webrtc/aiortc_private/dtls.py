"""Behind aiortc's DTLS: certificates, cipher suites, why a handshake failed, how many transports there are
(entries 6, 8, 13, 16 and 17)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

from aiortc import RTCBundlePolicy, RTCCertificate, RTCDtlsFingerprint, RTCPeerConnection
from aiortc.rtcdtlstransport import State
from OpenSSL import SSL

HELLO_AGAIN_S = (0.03, 0.05, 0.1, 0.2, 0.4)  # OpenSSL waits a second, as RFC 6347 section 4.2.4.1 has it
_SUITES = ("AES128-GCM-SHA256", "CHACHA20-POLY1305", "AES128-SHA", "AES256-SHA")
_CIPHERS = ":".join(f"ECDHE-{key}-{suite}" for key in ("ECDSA", "RSA") for suite in _SUITES).encode()


def share_certificate(pc: RTCPeerConnection) -> None:
    """To be called before anything else is done with the connection."""
    connection: Any = pc
    connection._RTCPeerConnection__certificates = [_certificate(int(time.time() // 86400))]


def share_transport(pc: RTCPeerConnection, shared: bool) -> None:
    """Whether sections that come from now on use the first one's transport, or have one each until the bundle
    of the description is looked at."""
    connection: Any = pc
    policy = RTCBundlePolicy.MAX_BUNDLE if shared else RTCBundlePolicy.MAX_COMPAT
    connection._RTCPeerConnection__configuration.bundlePolicy = policy


@functools.lru_cache(maxsize=1)
def _certificate(day: int) -> _SharedCertificate:
    return _SharedCertificate.generateCertificate()


class _SharedCertificate(RTCCertificate):
    """Its TLS context and its fingerprints serve every connection that has it."""

    _context: SSL.Context | None = None
    _fingerprints: list[RTCDtlsFingerprint] | None = None

    def getFingerprints(self) -> list[RTCDtlsFingerprint]:
        if self._fingerprints is None:
            self._fingerprints = super().getFingerprints()
        return list(self._fingerprints)

    def _create_ssl_context(self, srtp_profiles: Any) -> SSL.Context:
        if self._context is None:
            context = super()._create_ssl_context(srtp_profiles)
            context.set_cipher_list(_CIPHERS)
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # no call resumes the session of another
            context.set_mode(SSL.MODE_RELEASE_BUFFERS)
            self._context = context
        return self._context


def add_rsa_ciphers(dtls: Any) -> None:
    certificate = dtls._RTCDtlsTransport__local_certificate
    if isinstance(certificate, _SharedCertificate) or "_create_ssl_context" in vars(certificate):
        return  # done for the connection's other transports
    create = certificate._create_ssl_context

    def create_ssl_context(*args: Any, **kwargs: Any) -> Any:
        context = create(*args, **kwargs)
        context.set_cipher_list(_CIPHERS)
        return context

    certificate._create_ssl_context = create_ssl_context


def repeat_hello(dtls: Any) -> None:
    """As the DTLS client, send the first datagram of the handshake again soon, and ever later, until the
    server answers. To a server that has it already it is a duplicate, as networks make them."""
    handshake, ice = dtls._do_handshake, dtls.transport
    sending = ice._send

    async def do_handshake() -> None:
        if dtls._role != "client":
            await handshake()
            return
        repeating: list[asyncio.Task[None]] = []

        async def send(data: bytes) -> None:
            await sending(data)
            if repeating:
                repeating[0].cancel()  # this answers what the server has said
            else:
                repeating.append(asyncio.create_task(repeat(data)))

        async def repeat(hello: bytes) -> None:
            with contextlib.suppress(ConnectionError):
                for pause_s in HELLO_AGAIN_S:
                    await asyncio.sleep(pause_s)
                    await sending(hello)

        ice._send = send
        try:
            await handshake()
        finally:
            ice._send = sending
            for task in repeating:
                task.cancel()
            await asyncio.gather(*repeating, return_exceptions=True)

    dtls._do_handshake = do_handshake


def tell_failures(dtls: Any, tell: Callable[[str], None]) -> None:
    """``tell`` why DTLS failed, in words, just before the state says that it has."""
    handshake, set_state = dtls._do_handshake, dtls._set_state
    errors: list[str] = []

    async def do_handshake() -> None:
        tls = dtls._ssl
        attempt = tls.do_handshake

        def recorded() -> None:
            try:
                attempt()
            except SSL.WantReadError:
                raise
            except SSL.Error as error:
                errors.append(_words(error))
                raise

        tls.do_handshake = recorded
        try:
            await handshake()
        finally:
            del tls.do_handshake

    def set_state_and_tell(state: Any) -> None:
        if state is State.FAILED:
            tell(_why(dtls, errors))
        set_state(state)

    dtls._do_handshake = do_handshake
    dtls._set_state = set_state_and_tell


def _why(dtls: Any, errors: list[str]) -> str:
    """aiortc fails in three places: in the handshake, on the fingerprint, and on the SRTP profile."""
    if not dtls.encrypted:
        return f"the DTLS handshake failed: {errors[-1] if errors else 'the connection was lost'}"
    if not dtls._ssl.get_selected_srtp_profile():
        return "the DTLS handshake agreed on no SRTP profile"
    return "the DTLS certificate is not the one whose fingerprint was offered"


def _words(error: SSL.Error) -> str:
    """What OpenSSL says, such as `no shared cipher`."""
    reasons = [entry[-1] for entry in (error.args[0] if error.args else ()) if entry]
    return ", ".join(map(str, reasons[:3])) or type(error).__name__
