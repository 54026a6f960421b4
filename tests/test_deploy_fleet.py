"""What deploy/ holds for several servers: Kubernetes, compose, nginx, Prometheus, the dashboard."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from ports import free_port
from processes import started
from prometheus_client.core import Metric
from redis_server import redis_server
from test_deploy import DEPLOY, apart, listening, program

from rtcstt.call import CallSettings
from rtcstt.commands.stt import Options
from rtcstt.fleet.state import Counts
from rtcstt.http.access import Authenticator
from rtcstt.http.guard import Guard
from rtcstt.http.loop_monitor import Stalls
from rtcstt.server.admission import Limits
from rtcstt.server.assembly import hosts_of
from rtcstt.server.calls import Calls
from rtcstt.server.metrics import Metrics
from rtcstt.server.settings import Settings
from rtcstt.testing import ScriptedUpstream, silence, speech
from rtcstt.webrtc.connection import PeerSettings

yaml = pytest.importorskip("yaml", reason="no PyYAML here (pip install pyyaml)")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DEPLOY.exists(), reason="no deploy/ in this package"),
]

__all__ = ["apart"]  # a fixture
KUBERNETES = DEPLOY / "kubernetes"
PATIENCE_S = 60.0
WORDS = "it was the best of times"


def documents(folder: Path) -> list[dict[str, Any]]:
    """Every object of the files that the kustomization names."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    texts = ((folder / name).read_text() for name in kustomization["resources"])
    return [one for text in texts for one in yaml.safe_load_all(text)]


def of(kind: str, name: str) -> dict[str, Any]:
    objects = documents(KUBERNETES)
    (found,) = (one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def container(kind: str, name: str) -> dict[str, Any]:
    (found,) = of(kind, name)["spec"]["template"]["spec"]["containers"]
    return found


def test_kustomize_builds_it(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here")
    folder = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, folder, ignore=shutil.ignore_patterns("secrets"))
    (folder / "secrets").mkdir()
    for name in ("token", "redis-password", "stt-key"):
        (folder / "secrets" / name).write_text("x" * 32)
    command = ["kubectl", "kustomize", str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(list(yaml.safe_load_all(built))) == len(documents(KUBERNETES)) + 1  # the secret


VALIDATE = """
import json, sys, kubernetes_validate
for one in json.load(sys.stdin):
    kubernetes_validate.validate(one, "1.31", strict=True)
"""


@pytest.mark.conformance
def test_kubernetes_takes_every_object(apart: Path) -> None:
    objects = documents(KUBERNETES)
    check(apart, VALIDATE, json.dumps(objects))
    wrong = [{**objects[0], "specc": {}}]
    with pytest.raises(AssertionError, match="specc"):
        check(apart, VALIDATE, json.dumps(wrong))


@pytest.mark.conformance
def test_compose_takes_the_fleet(apart: Path) -> None:
    script = "import sys, compose_spec; compose_spec.PyCompose.from_yaml(sys.stdin.read()).validate()"
    compose = yaml.safe_load((DEPLOY / "compose.fleet.yaml").read_text())  # with its merges done
    check(apart, script, json.dumps(compose))


@pytest.mark.conformance
def test_grafana_takes_the_dashboard_and_prometheus_its_queries(apart: Path) -> None:
    text = (DEPLOY / "grafana" / "dashboards" / "rtcstt.json").read_text()
    script = """
import json, sys
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
import promql_parser
register_default_plugins()
given = json.load(sys.stdin)
read = Dashboard.from_json(given)
assert len(read.panels) == len(given["panels"])
for panel in given["panels"]:
    for target in panel["targets"]:
        promql_parser.parse(target["expr"])
"""
    check(apart, script, text)


def test_prometheus_takes_the_fleets_configuration() -> None:
    promtool = program("promtool", "prometheus")
    subprocess.run([promtool, "check", "config", str(DEPLOY / "prometheus.fleet.yml")], check=True)


def check(apart: Path, script: str, text: str) -> None:
    command = [str(apart / "python"), "-c", script]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_objects_fit_each_other() -> None:
    for workload, kind in (("serve", "Deployment"), ("stt", "Deployment"), ("redis", "StatefulSet")):
        spec = of(kind, workload)["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        assert of("Service", workload)["spec"]["selector"].items() <= labels.items()
        assert of("NetworkPolicy", workload)["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        about = container(kind, workload)
        assert about["resources"]["limits"]["memory"] and about["resources"]["requests"]["cpu"]
        assert about["readinessProbe"] and about["livenessProbe"]
        security = about["securityContext"]
        assert security["readOnlyRootFilesystem"] and security["capabilities"] == {"drop": ["ALL"]}
        ports = {port["containerPort"] for port in about["ports"]}
        allowed = {
            port["port"]
            for rule in of("NetworkPolicy", workload)["spec"]["ingress"]
            for port in rule["ports"]
        }
        assert ports == allowed
    for name in ("serve", "stt"):
        scaled = of("HorizontalPodAutoscaler", name)["spec"]
        assert scaled["scaleTargetRef"]["name"] == name and scaled["minReplicas"] >= 2
        assert of("PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1


def test_the_pods_options_exist_and_leave_time_to_drain() -> None:
    serve = container("Deployment", "serve")
    names = {option.name for option in dataclasses.fields(Settings)}
    text = (KUBERNETES / "serve.yaml").read_text()
    given = {name.lower() for name in re.findall(r"RTCSTT_([A-Z_]+)", text)}
    assert given <= names | {"stt_key"}
    env = {one["name"]: one.get("value") for one in serve["env"]}
    udp = next(port for port in serve["ports"] if port.get("protocol") == "UDP")
    assert env["RTCSTT_UDP_PORT"] == str(udp["containerPort"]) == str(udp["hostPort"])
    pod = of("Deployment", "serve")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > Settings().drain_s + Settings().drain_timeout_s
    assert serve["readinessProbe"]["httpGet"]["path"] == "/readyz"
    options = {f"--{option.name.replace('_', '-')}" for option in dataclasses.fields(Options)}
    args = container("Deployment", "stt")["args"]
    assert {arg for arg in args if arg.startswith("--")} <= options
    assert "-lc" not in text and "password" not in re.sub(r"redis-password", "", text)


def test_the_compose_file_names_what_the_others_name() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.fleet.yaml").read_text())
    servers = {name: one for name, one in compose["services"].items() if name.startswith("serve-")}
    assert len(servers) == 3
    names = {option.name for option in dataclasses.fields(Settings)}
    for name, one in servers.items():
        env = one["environment"]
        assert {key.removeprefix("RTCSTT_").lower() for key in env} <= names
        assert env["RTCSTT_NODE_URL"] == f"http://{name}:8080"
        settings = Settings(host="0.0.0.0", redis="redis://h", node_url=env["RTCSTT_NODE_URL"])
        assert hosts_of(settings).allows(f"{name}:8080"), "so the others, and Prometheus, ask"
        assert not hosts_of(settings).allows("serve-9:8080")
        port = env["RTCSTT_UDP_PORT"]
        assert one["ports"] == [f"{port}:{port}/udp"]
        grace = int(one["stop_grace_period"].removesuffix("s"))
        assert grace > Settings().drain_s + Settings().drain_timeout_s
    nginx = (DEPLOY / "nginx.fleet.conf").read_text()
    assert re.findall(r"server (\S+?):8080", nginx) == sorted(servers)
    scraped = yaml.safe_load((DEPLOY / "prometheus.fleet.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == [f"{name}:8080" for name in sorted(servers)]
    for one in compose["services"].values():
        for volume in one.get("volumes", ()):
            assert (DEPLOY / volume.partition(":")[0]).exists(), volume


async def test_the_dashboard_shows_metrics_that_there_are() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "rtcstt.json").read_text())
    used = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\brtcstt_\w+", target["expr"])
    }
    assert len(used) > 10
    async with ScriptedUpstream() as stt:
        calls = Calls(stt=stt, settings=CallSettings(), peers=PeerSettings, limits=Limits())
        calls.sharing = lambda: Counts(False, 0, 0, 0)
        metrics = Metrics(calls, Stalls(), Guard(Authenticator()))
        there = {name for family in metrics.collect() for name in names_of(family)}
    assert used <= there, used - there
    load = (KUBERNETES / "autoscaling.yaml").read_text()
    assert set(re.findall(r"\brtcstt_\w+", load)) <= there


def names_of(family: Metric) -> Iterator[str]:
    if family.type == "counter":
        yield f"{family.name}_total"
    elif family.type == "histogram":
        yield f"{family.name}_bucket"
    else:
        yield family.name


async def test_nginx_finds_a_call_whichever_server_it_asks(tmp_path: Path) -> None:
    """The configuration of the fleet, with the same parts as processes: one of three servers is killed, and
    the text of its calls is still there."""
    port = free_port()
    one_stt, other_stt = ScriptedUpstream(), ScriptedUpstream()
    with redis_server(tmp_path) as redis, contextlib.ExitStack() as stack:
        async with one_stt.listening() as first, other_stt.listening() as second:
            options = ("--stt", first, "--stt", second, "--redis", redis.url, "--resume-grace-s", "1")
            await check_nginx(tmp_path, stack, port, options)
    assert one_stt.connections and other_stt.connections


async def check_nginx(
    tmp_path: Path, stack: contextlib.ExitStack, port: int, options: tuple[str, ...]
) -> None:
    async with (
        started("serve", tmp_path, *options) as one,
        started("serve", tmp_path, *options) as two,
        started("serve", tmp_path, *options) as three,
    ):
        text = (DEPLOY / "nginx.fleet.conf").read_text()
        for number, server in enumerate((one, two, three), 1):
            text = text.replace(f"serve-{number}:8080", server.url.removeprefix("http://"))
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{port};")
        text = text.replace("/dev/stdout", f"{tmp_path}/access.log")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = " ".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
        around = f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}} http {{"
        (tmp_path / "nginx.conf").write_text(f"{around} {temporary}\n{text}\n}}\n")
        command = [program("nginx", "nginx-light"), "-c", f"{tmp_path}/nginx.conf"]
        stack.enter_context(
            listening([*command, "-e", f"{tmp_path}/error.log"], port, tmp_path / "nginx.log")
        )
        url = f"http://127.0.0.1:{port}"
        headers = {"Origin": url}  # as a page of this address has it
        timeout = aiohttp.ClientTimeout(PATIENCE_S)
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
            calls = []
            for _ in range(6):
                socket = await session.ws_connect(f"{url}/pcm?sample_rate=16000")
                calls.append((await socket.receive_json())["call"])
                await socket.send_bytes(np.concatenate([speech(WORDS), silence(1.0)]).tobytes())
            for call in calls:
                for _ in range(3):
                    await answers(session, f"{url}/calls/{call}/transcript.txt", WORDS)
            os.kill(two.process.pid, signal.SIGKILL)
            await asyncio.to_thread(two.process.wait)
            for call in calls:
                for _ in range(3):
                    await answers(session, f"{url}/calls/{call}/transcript.txt", WORDS)


async def answers(session: aiohttp.ClientSession, url: str, text: str = "") -> None:
    """Returns once it does, with the ``text``: what is written behind takes a moment."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with session.get(url) as response:
                if response.status == 200 and text in await response.text():
                    return
            await asyncio.sleep(0.05)
