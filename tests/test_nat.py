"""A server behind a real 1:1 NAT (Linux's own, in namespaces), and a caller who lets nobody in unasked."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import netns
import numpy as np
import pytest
import soundfile
from processes import RTCSTT, running

pytestmark = pytest.mark.real

OUTSIDE, INSIDE, CALLER = "198.51.100.1", "10.0.0.2", "198.51.100.2"
PORTS = "40000-40099"


@pytest.fixture
def network() -> Iterator[tuple[str, str]]:
    """(caller's, server's) namespace; the NAT between them lets in TCP 8080 and the audio's ports."""
    iptables = shutil.which("iptables-legacy") or pytest.skip("Debian's iptables is not installed")
    with netns.namespaces("caller", "nat", "server") as (caller, nat, server):
        netns.join(caller, f"{CALLER}/24", nat, f"{OUTSIDE}/24", name="out")
        netns.join(server, f"{INSIDE}/24", nat, "10.0.0.1/24", name="in")
        netns.do("ip", "-n", server, "route", "add", "default", "via", "10.0.0.1")
        netns.do(*netns.enter(nat), "sysctl", "-qw", "net.ipv4.ip_forward=1")
        rules = [
            f"PREROUTING -i out1 -p tcp --dport 8080 -j DNAT --to-destination {INSIDE}",
            f"PREROUTING -i out1 -p udp --dport {PORTS.replace('-', ':')} -j DNAT --to-destination {INSIDE}",
            f"POSTROUTING -o out1 -s {INSIDE} -j SNAT --to-source {OUTSIDE}",
        ]
        for rule in rules:
            netns.do(*netns.enter(nat), iptables, "-t", "nat", "-A", *rule.split())
        unasked = "INPUT -p udp -m conntrack --ctstate NEW -j DROP"
        netns.do(*netns.enter(caller), iptables, "-A", *unasked.split())
        yield caller, server


@pytest.mark.parametrize(
    "public",
    [True, pytest.param(False, marks=pytest.mark.heavy)],  # only the other shows that the NAT is one; 30 s
    ids=["told", "not told"],
)
def test_callers_reach_a_server_that_tells_its_public_address(
    network: tuple[str, str], public: bool, tmp_path: Path
) -> None:
    caller, server = network
    (tmp_path / "token").write_text("token\n")
    soundfile.write(tmp_path / "call.wav", np.zeros(48000 * 2, np.int16), 48000)
    options = ["--host", INSIDE, "--port", "8080", "--token-file", str(tmp_path / "token")]
    options += ["--udp-ports", PORTS, "--stt", "ws://127.0.0.1:9", "--drain-timeout-s", "0.5"]
    options += ["--public-ip", OUTSIDE] if public else []
    call = [*netns.enter(caller), RTCSTT, "call", str(tmp_path / "call.wav"), "--stay", "0"]
    call += ["--to", f"http://{OUTSIDE}:8080/offer", "--token-file", str(tmp_path / "token")]
    with running("serve", tmp_path, *options, program=[*netns.enter(server), RTCSTT]):
        done = subprocess.run(call, capture_output=True, text=True, timeout=200)
    assert (done.returncode == 0) is public, done.stderr
    if public:
        (ledger,) = json.loads(done.stdout.splitlines()[-1])["ledger"].values()
        assert ledger["received"] > 1500
