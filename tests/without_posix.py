"""`python without_posix.py COMMAND...`: rtcstt with nothing of Python that Windows has not; without a
command every module of it is imported. What other packages do there is their matter: they come first."""

from __future__ import annotations

import asyncio
import functools
import importlib
import multiprocessing.reduction
import os
import pkgutil
import signal
import socket
import sys

import aiohttp.web  # noqa: F401
import av  # noqa: F401
import numpy  # noqa: F401
import prometheus_client  # noqa: F401
import redis.asyncio  # noqa: F401
import watchfiles  # noqa: F401
import websockets.asyncio.client  # noqa: F401

importlib.import_module("aiortc")

MODULES = "crypt fcntl grp nis ossaudiodev pty pwd readline resource spwd syslog termios tty".split()
NAMES = {
    asyncio: "open_unix_connection start_unix_server",
    multiprocessing.reduction: "DupFd",
    os: "chown fchmod fchown fork getgid getloadavg getpgid geteuid getegid getuid killpg memfd_create mkfifo"
    " nice pread pwrite sched_getaffinity sched_setaffinity sched_yield sendfile setsid statvfs sysconf uname"
    " writev",
    signal: "SIGALRM SIGCHLD SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGUSR2 alarm pthread_sigmask setitimer",
    socket: "AF_UNIX IP_PKTINFO IPV6_RECVPKTINFO SO_REUSEPORT",
}


def refuse(*arguments: object) -> None:
    raise NotImplementedError


def hide() -> None:
    socket.socketpair = functools.partial(socket.socketpair, socket.AF_UNIX)  # as asyncio needs it here
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in NAMES.items():
        for name in names.split():
            module.__dict__.pop(name, None)
    loop = asyncio.unix_events._UnixSelectorEventLoop
    for name in ("add_signal_handler", "remove_signal_handler"):
        setattr(loop, name, refuse)


def import_all() -> None:
    import rtcstt

    for module in pkgutil.walk_packages(rtcstt.__path__, "rtcstt."):
        importlib.import_module(module.name)


if __name__ == "__main__":
    hide()
    if len(sys.argv) > 1:
        from rtcstt.cli import main

        sys.exit(main(sys.argv[1:]))
    import_all()
