"""What deploy/ holds, tried with the programs it is for; only paths, names and ports are others."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnection
from conformance import install
from ports import free_port
from processes import RTCSTT, Server, running

from rtcstt.commands.demo import bundled_recording
from rtcstt.server.assembly import turn_login
from rtcstt.server.settings import Settings
from rtcstt.webrtc.connection import IceServer

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
TOKEN = "a-token-of-the-test"
TURN_HOST = "turn.example.com"
START_S = 20.0
FOLDERS = ("src", "build", "wheels", "venv", "models")  # of the image
# Of glibc, gcc and zlib, which every Debian has.
SLIM = {"libc", "libm", "libmvec", "libdl", "libpthread", "librt", "libutil", "libgcc_s", "libstdc++", "libz"}

pytestmark = [pytest.mark.real, pytest.mark.skipif(not DEPLOY.exists(), reason="no deploy/ in this package")]


def program(name: str, package: str) -> str:
    """Its path; the test is skipped where it is not."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"no {name} here (Debian: apt-get install {package})")
    return found


def changed(name: str, changes: dict[str, str]) -> str:
    """The text of a file of deploy/, with what must be other here."""
    text = (DEPLOY / name).read_text()
    for old, new in changes.items():
        assert old in text, f"{name} no longer has {old}"
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def listening(command: list[str], port: int, log: Path, **options: Any) -> Iterator[None]:
    """A program that takes connections at the port, until it is no longer needed."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        deadline = time.monotonic() + START_S
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)  # a process of its own has no event to wait for
        yield
    finally:
        process.terminate()
        process.wait(START_S)


# --- proxies --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "tokens").write_text(TOKEN)
    options = ("--token-file", str(folder / "tokens"), "--trusted-proxy", "127.0.0.1")
    with running("serve", folder, *options) as server:
        yield server


@contextlib.contextmanager
def nginx(server: Server, folder: Path) -> Iterator[str]:
    port = free_port()
    certificate(folder)
    text = changed(
        "nginx.conf",
        {
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "/etc/letsencrypt/live/captions.example.com/fullchain.pem": f"{folder}/certificate.pem",
            "/etc/letsencrypt/live/captions.example.com/privkey.pem": f"{folder}/key.pem",
            "/var/log/nginx/rtcstt.log": f"{folder}/access.log",
            "http://127.0.0.1:8080": server.url,
        },
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    around = f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}} http {{ {temporary}"
    (folder / "nginx.conf").write_text(f"{around}\n{text}\n}}\n")
    command = [program("nginx", "nginx-light"), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
    with listening(command, port, folder / "nginx.log"):
        yield f"https://127.0.0.1:{port}"


@contextlib.contextmanager
def caddy(server: Server, folder: Path) -> Iterator[str]:
    port = free_port()
    changes = {
        "captions.example.com {": f"http://127.0.0.1:{port} {{",
        "127.0.0.1:8080": server.url.removeprefix("http://"),
    }
    text = "{\nadmin off\n}\n" + changed("Caddyfile", changes)
    (folder / "Caddyfile").write_text(text)
    command = [program("caddy", "caddy"), "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]
    with listening(command, port, folder / "access.log", env={"HOME": str(folder)}):
        yield f"http://127.0.0.1:{port}"


def certificate(folder: Path) -> None:
    options = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    files = ["-subj", "/CN=captions.example.com", "-keyout", "key.pem", "-out", "certificate.pem"]
    openssl = program("openssl", "openssl")
    subprocess.run([openssl, "req", *options, *files], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize("proxy", [nginx, caddy])
async def test_everything_goes_through_the_proxy_but_the_metrics(
    proxy: Any, server: Server, tmp_path: Path
) -> None:
    shown = {"Authorization": f"Bearer {TOKEN}"}
    with proxy(server, tmp_path) as url:
        async with asyncio.timeout(60), aiohttp.ClientSession(url, headers=shown) as http:
            async with http.get("/healthz", ssl=False) as response:
                assert response.status == 200
            async with http.get("/metrics", ssl=False) as response:
                assert response.status == 403
            assert await uploaded(http, minutes=2) == 200
            await words_come_at_once(http)
    assert TOKEN not in (tmp_path / "access.log").read_text()


async def uploaded(http: aiohttp.ClientSession, *, minutes: int) -> int:
    """The status of a recording of silence: more than the 1 MB that nginx takes by itself."""
    audio = io.BytesIO()
    with wave.open(audio, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(2 * 16000 * 60 * minutes))
    form = aiohttp.FormData({"model": "ink-whisper"})
    audio.seek(0)
    form.add_field("file", audio, filename="silence.wav")
    async with http.post(
        "/stt", data=form, ssl=False, headers={"Cartesia-Version": "2026-03-01"}
    ) as response:
        return response.status


async def words_come_at_once(http: aiohttp.ClientSession) -> None:
    """A gateway's WebSocket, and its events for a browser, which shows its token in the query."""
    async with http.ws_connect("/pcm?encoding=pcm_s16le&sample_rate=16000", ssl=False) as gateway:
        began = json.loads((await gateway.receive(10)).data)
        assert began["type"] == "session.start"
        path = f"/calls/{began['call']}/events?access_token={TOKEN}"
        async with http.get(path, ssl=False, headers={"Authorization": ""}) as events:
            assert events.status == 200
            while not (line := await events.content.readline()).startswith(b"data:"):
                assert line
            assert json.loads(line.removeprefix(b"data:"))["type"] == "session.start"


# --- systemd, Prometheus, settings ----------------------------------------------------------------


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    unit = changed("rtcstt.service", {"/usr/local/lib/rtcstt/bin/rtcstt": str(RTCSTT)})
    (tmp_path / "rtcstt.service").write_text(unit)
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / "rtcstt.service")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def settings_of(name: str) -> dict[str, list[str]]:
    """NAME=VALUE lines of a file of deploy/, comments left out."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if not line.startswith("#") and key.strip():
            found.setdefault(key.strip(), []).append(value if equals else "")
    return found


def test_the_unit_bounds_what_the_service_may_use_and_hides_its_secrets() -> None:
    unit = settings_of("rtcstt.service")
    assert int(unit["LimitNOFILE"][0]) >= 65536 and int(unit["TasksMax"][0]) > 0
    assert unit["UMask"] == ["0077"] and unit["StateDirectory"] == ["rtcstt"] and unit["MemoryMax"]
    assert unit["LoadCredential"] == ["tokens:/etc/rtcstt/tokens"]
    assert "RTCSTT_TOKEN_FILE=%d/tokens" in unit["Environment"]
    assert int(unit["TimeoutStopSec"][0]) > Settings().drain_s + Settings().drain_timeout_s


def test_the_relay_leads_into_no_private_network() -> None:
    """Each network that is not for everybody's use is denied whole (RFC 6890)."""
    relay = settings_of("turnserver.conf")
    denied = [tuple(map(ipaddress.ip_address, (text.split("-") * 2)[:2])) for text in relay["denied-peer-ip"]]
    private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "0.0.0.0/8"]
    private += ["169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "198.18.0.0/15", "192.0.0.0/24"]
    private += ["::1/128", "fc00::/7", "fe80::/10"]
    for network in map(ipaddress.ip_network, private):
        first, last = network[0], network[-1]
        ranges = [(a, b) for a, b in denied if a.version == first.version]
        assert any(int(a) <= int(first) and int(last) <= int(b) for a, b in ranges), network
    assert relay["user-quota"] and relay["total-quota"] and relay["max-bps"]
    assert "no-cli" in relay and "no-tcp-relay" in relay and "static-auth-secret" not in relay


def test_prometheus_understands_its_configuration() -> None:
    promtool = program("promtool", "prometheus")
    subprocess.run([promtool, "check", "config", str(DEPLOY / "prometheus.yml")], check=True)


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", "rtcstt.service"])
def test_each_variable_is_a_setting(name: str) -> None:
    options = {f"RTCSTT_{option.name.upper()}" for option in dataclasses.fields(Settings)}
    found = set(re.findall(r"\bRTCSTT_[A-Z_]+", (DEPLOY / name).read_text()))
    assert found and found <= options | {"RTCSTT_MODELS_DIR", "RTCSTT_STT_KEY"}


def test_every_option_that_is_named_exists() -> None:
    options = {option.name.replace("_", "-") for option in dataclasses.fields(Settings)}
    options |= {"config", "log-format", "verbose"}
    for page in [*DEPLOY.glob("*.*"), DEPLOY / "Dockerfile", DEPLOY.parent / "docs" / "deployment.md"]:
        for line in re.findall(r"rtcstt serve([^`\n]*)", page.read_text()):
            assert set(re.findall(r"--([a-z][a-z-]+)", line)) <= options, (page.name, line)


# --- the image ------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, with continued lines joined."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def copied() -> list[str]:
    """What comes from the checkout."""
    steps = (rest for name, rest in instructions() if name == "COPY" and not rest.startswith("--from"))
    return [source for rest in steps for source in rest.split()[:-1]]


def test_the_image_is_slim_and_unprivileged_and_has_what_it_copies() -> None:
    steps = instructions()
    assert all("-slim" in rest for name, rest in steps if name == "FROM")
    last = max(index for index, (name, _) in enumerate(steps) if name == "FROM")
    names = [name for name, _ in steps[last:]]
    assert "HEALTHCHECK" in names and names.index("USER") < names.index("CMD")
    assert copied() and all((DEPLOY.parent / source).exists() for source in copied())


def pinned(path: Path) -> dict[str, str]:
    """The versions of a requirements file, by name."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", path.read_text(), re.MULTILINE)
    return {re.sub("[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_image_installs_what_is_pinned_by_its_hashes() -> None:
    top = DEPLOY.parent
    project = tomllib.loads((top / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["redis"]]
    names = {re.split(r"[^A-Za-z0-9._-]", one)[0].replace("_", "-").lower() for one in wanted}
    constraints = pinned(top / "constraints.txt")
    for name, needed in (("requirements.txt", names), ("requirements-build.txt", {"build", "hatchling"})):
        text, found = (DEPLOY / name).read_text(), pinned(DEPLOY / name)
        assert needed <= found.keys()
        assert {one: constraints.get(one, version) for one, version in found.items()} == found
        for block in re.split(
            r"^(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE
        ):
            assert not block or "--hash=sha256:" in block, block
        assert not re.search(r"://|--(extra-)?index|--find-links", text)
    installs = [
        word
        for step, rest in instructions()
        if step == "RUN"
        for word in re.findall("pip install[^&]*", rest)
    ]
    assert installs and all("--require-hashes" in one or "--no-deps" in one for one in installs)


def test_the_health_check_is_true_of_a_server_and_of_nothing_else(server: Server) -> None:
    (step,) = (rest for name, rest in instructions() if name == "HEALTHCHECK")
    _, *code = json.loads(step.partition("CMD ")[2])
    ports = {"0": server.url.rpartition(":")[2], "1": str(free_port())}
    for status, port in ports.items():
        done = subprocess.run([sys.executable, *code], env={"RTCSTT_PORT": port}, capture_output=True)
        assert str(done.returncode) == status


# --- containers -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def apart() -> Path:
    """The programs that read a Dockerfile and a compose file."""
    try:
        install.install_python("deploy", install.PYTHON["deploy"])
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"pip could not install {', '.join(install.PYTHON['deploy'])}: {error}")
    return install.python("deploy").parent


@pytest.fixture(scope="module")
def services(apart: Path) -> dict[str, Any]:
    """Of the compose file, once it is known to be one."""
    script = "import sys, compose_spec as c; f = c.PyCompose.from_yaml(sys.stdin.read()); f.validate()"
    command = [str(apart / "python"), "-c", f"{script}; print(f.to_json())"]
    names = {"TURN_HOST:?set TURN_HOST": TURN_HOST, "TURN_HOST": TURN_HOST}
    names |= {"SERVER_NAME:?set SERVER_NAME": "captions.example.com"}
    text = changed("compose.yaml", {f"${{{name}}}": value for name, value in names.items()})
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


@pytest.mark.conformance
def test_hadolint_has_nothing_against_the_dockerfile(apart: Path) -> None:
    done = subprocess.run([apart / "hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.conformance
async def test_coturn_of_the_compose_file_lets_in_whom_rtcstt_gives_a_login(
    services: dict[str, Any], tmp_path: Path
) -> None:
    program("turnserver", "coturn")
    (tmp_path / "secret").write_text("what both know\n")
    port, coturn = free_port(), services["coturn"]
    here = (f"--listening-port={port}", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1")
    files = (f"--pidfile={tmp_path}/pid", f"--userdb={tmp_path}/db")
    places = {
        "$$": "$",
        "/run/secrets/turn-secret": f"{tmp_path}/secret",
        "/etc/turnserver.conf.in": str(DEPLOY / "turnserver.conf"),
        "/tmp/turnserver.conf": f"{tmp_path}/turnserver.conf",
    }
    words = [*coturn["entrypoint"], *coturn["command"], *here, *files]
    for old, new in places.items():
        words = [word.replace(old, new) for word in words]
    with listening(words, port, tmp_path / "log"):
        arguments = Path("/proc").glob("[0-9]*/cmdline")  # noqa: ASYNC240
        assert not any(b"what both know" in found for found in map(_read, arguments)), (
            "it is in nobody's list"
        )
        server = IceServer.parse(f"turn:127.0.0.1:{port}")
        assert await relayed(turn_login(server, "what both know", time.time() + 60))
        assert not await relayed(turn_login(server, "something else", time.time() + 60))


def _read(path: Path) -> bytes:
    """Nothing of a process that has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def relayed(turn: IceServer) -> bool:
    """Whether a caller gets a relay's address with the login."""
    login = RTCIceServer(turn.url, username=turn.username, credential=turn.credential)
    pc = RTCPeerConnection(RTCConfiguration([login], iceTransportPolicy=RTCIceTransportPolicy.RELAY))
    try:
        pc.addTransceiver("audio")
        await pc.setLocalDescription(await pc.createOffer())
        return "typ relay" in pc.localDescription.sdp
    finally:
        await pc.close()


class Container:
    """What the Dockerfile and the compose file make, with this machine's operating system and Python in
    place of the image's: its user, variables, files and what of them can be written."""

    def __init__(self, folder: Path, service: dict[str, Any]) -> None:
        self._bwrap = program("bwrap", "bubblewrap")
        if subprocess.run([self._bwrap, "--unshare-user", "--ro-bind", "/", "/", "true"]).returncode:
            pytest.skip("no user namespaces here")
        self._service = service
        self._folder = folder
        self._python = Path(sys.base_prefix)
        for name in FOLDERS:
            (folder / name).mkdir()
        (folder / "rtcstt-token").write_text(TOKEN)
        (folder / "turn-secret").write_text("what both know")

    def build(self) -> None:
        source = self._folder / "src"
        for name in copied():
            place = DEPLOY.parent / name
            (shutil.copytree if place.is_dir() else shutil.copy)(place, source / place.name)
        for name, rest in instructions():
            if name == "RUN" and "useradd" not in rest:
                self._run(["sh", "-c", rest])

    def _run(self, command: list[str]) -> None:
        """A step of the build stage: this machine, but with the folders of the image."""
        others = [top for top in Path("/").iterdir() if top.name not in ("dev", "proc", *FOLDERS)]
        links = [word for top in others if top.is_symlink() for word in ("--symlink", top.readlink(), top)]
        binds = [word for top in others if not top.is_symlink() for word in ("--bind", top, top)]
        own = [word for name in FOLDERS for word in self._mount("--bind", name, f"/{name}")]
        set_up = [*links, *binds, *own, "--dev", "/dev", "--proc", "/proc", "--chdir", "/src"]
        path = f"{self._python}/bin:{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, "RTCSTT_MODELS_DIR": "/models"}
        whole = [self._bwrap, "--tmpfs", "/", *set_up, *command]
        done = subprocess.run(whole, env=variables, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr

    def _mount(self, how: str, name: str, target: str) -> list[str]:
        return [how, str(self._folder / name), target]

    def command(self, port: int, words: list[str]) -> list[str]:
        """To run ``words`` as the service; rtcstt takes the port."""
        service = self._service
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        links = _links("bin", "lib", "lib64")
        system = ["--ro-bind", "/usr", "/usr", *links, "--proc", "/proc", "--dev", "/dev"]
        python = ["--ro-bind", str(self._python), str(self._python)]
        mounts = [*self._mount("--ro-bind", "venv", "/venv"), *self._mount("--ro-bind", "models", "/models")]
        for secret in service["secrets"]:
            mounts += self._mount("--ro-bind", secret, f"/run/secrets/{secret}")
        for folder in service.get("tmpfs", []):
            mounts += ["--tmpfs", folder]
        user = next(rest for name, rest in instructions() if name == "USER")
        who = ["--unshare-user", "--uid", user, "--gid", user, "--cap-drop", "ALL"]
        variables = {**self._variables(), **service["environment"], "RTCSTT_PORT": str(port)}
        settings = [word for name, value in variables.items() for word in ("--setenv", name, value)]
        whole = [*system, *python, *mounts, *who, "--remount-ro", "/", "--clearenv", *settings]
        return [self._bwrap, "--die-with-parent", "--tmpfs", "/", *whole, "--chdir", "/", *words]

    def _variables(self) -> dict[str, str]:
        last = [rest for name, rest in instructions() if name == "ENV"][-1]
        found = dict(word.split("=", 1) for word in last.split())
        found["PATH"] = found["PATH"].replace("$PATH", f"{self._python}/bin:/usr/bin")
        return found


def _links(*names: str) -> list[str]:
    return [word for name in names for word in ("--symlink", f"usr/{name}", f"/{name}")]


def words_of(name: str) -> list[str]:
    """The command of CMD or HEALTHCHECK."""
    (step,) = (rest for found, rest in instructions() if found == name)
    found: list[str] = json.loads(step[step.index("[") :])
    return found


@pytest.mark.heavy
async def test_the_container_that_the_steps_make_answers_calls_and_takes_recordings(
    services: dict[str, Any], tmp_path: Path
) -> None:
    container, port = Container(tmp_path, services["rtcstt"]), free_port()
    await asyncio.to_thread(container.build)
    shown = {"Authorization": f"Bearer {TOKEN}"}
    with listening(container.command(port, words_of("CMD")), port, tmp_path / "log"):
        await asyncio.to_thread(subprocess.run, container.command(port, words_of("HEALTHCHECK")), check=True)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=shown) as http:
            assert await uploaded(http, minutes=2) == 200
            call = [RTCSTT, "call", str(bundled_recording()), "--to", f"http://127.0.0.1:{port}/offer"]
            caller = await asyncio.create_subprocess_exec(
                *call, stdout=subprocess.PIPE, env={**os.environ, "RTCSTT_TOKEN": TOKEN}
            )
            said, _ = await asyncio.wait_for(caller.communicate(), 60)
    assert "it was the age of wisdom" in said.decode().lower()
    assert not missing_in_slim(tmp_path / "venv")


def missing_in_slim(folder: Path) -> set[str]:
    """Libraries that the wheels want of the system and that Debian's slim image does not have."""
    files = [str(file) for file in folder.rglob("*.so*") if file.is_file() and not file.is_symlink()]
    done = subprocess.run(["ldd", *files], capture_output=True, text=True)
    wanted = dict(re.findall(r"^\s+(\S+) => (/\S+|not found)", done.stdout, re.MULTILINE))
    outside = {name for name, place in wanted.items() if not place.startswith(str(folder))}
    return {name for name in outside if name.partition(".so")[0] not in SLIM}
