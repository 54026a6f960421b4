"""The options of `rtcstt serve`: one table, three sources, clear refusals."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import pytest

from rtcstt.embedded import Embedded
from rtcstt.errors import ConfigError
from rtcstt.server.assembly import _stt, application, ice_servers_of, tls_context, turn_login
from rtcstt.server.options import add_arguments, load
from rtcstt.server.settings import Settings
from rtcstt.stt.cartesia import Cartesia


def parse(*words: str, environment: dict[str, str] | None = None) -> Settings:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    add_arguments(parser, Settings)
    return load(Settings, parser.parse_args(words), environment or {})[0]


def test_without_anything_the_defaults_hold() -> None:
    assert parse() == Settings()


def test_the_contracts_options_are_there() -> None:
    found = parse(
        *(
            "--host",
            "127.0.0.1",
            "--port",
            "8080",
            "--stt",
            "embedded",
            "--mode",
            "manual",
            "--chunk-ms",
            "20",
        ),
        *("--ice-server", "stun:a:1", "stun:b:2", "--max-calls", "3", "--record", "calls"),
        *("--token-file", "tokens", "--allow-origin", "https://a", "--allow-origin", "https://b"),
    )
    assert (found.mode, found.chunk_ms, found.max_calls) == ("manual", 20, 3)
    assert found.ice_server == ("stun:a:1", "stun:b:2")
    assert found.allow_origin == ("https://a", "https://b")
    assert (found.record, found.token_file) == (Path("calls"), Path("tokens"))


@pytest.mark.parametrize("option", dataclasses.fields(Settings), ids=lambda option: option.name)
def test_every_option_can_come_from_the_environment(option: dataclasses.Field[object]) -> None:
    text = {
        "mode": "manual",
        "fallback": "embedded",
        "language": "fr",
        "dtx": "yes",
        "offline": "yes",
        "allow_origin": "https://page.example",
        "chunk_ms": "40",
        "redis_audio": "off",
        "node_url": "http://10.0.0.1:8080",
        "port": "81",
        "turn_start_threshold": "0.7",
        "turn_eager_end_threshold": "0.5",
        "turn_end_threshold": "0.1",
        "turn_end_timeout_ms": "900",
        "keyterm_strength": "0.5",
        "device": "cuda",
        "update_ms": "250",
        "public_ip": "192.0.2.1",
        "udp_ports": "50000-50999",
        "deny_peer": "10.0.0.0/8",
    }.get(option.name, "7")
    paired = {"RTCSTT_TLS_CERT": "c", "RTCSTT_TLS_KEY": "k"} if option.name.startswith("tls") else {}
    found = parse(environment={**paired, f"RTCSTT_{option.name.upper()}": text})
    assert getattr(found, option.name) != option.default


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(
        'port = 1\nmax-calls = 1\nchunk_ms = 30\ndtx = true\nice_server = ["stun:a:1", "stun:b:2"]\n'
    )
    found = parse(
        "--config", str(file), "--port", "3", environment={"RTCSTT_PORT": "2", "RTCSTT_MAX_CALLS": "2"}
    )
    assert (found.port, found.max_calls, found.chunk_ms, found.dtx) == (3, 2, 30, True)
    assert found.ice_server == ("stun:a:1", "stun:b:2")


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (("--chunk-ms", "10"), {}, "chunk_ms"),
        (("--port", "70000"), {}, "port"),
        (("--max-calls", "0"), {}, "max_calls"),
        (("--max-streams", "0"), {}, "max_streams"),
        (("--language", "German"), {}, "language must be an ISO 639 code"),
        (("--tls-cert", "x"), {}, "tls_cert"),
        (("--turn-end-threshold", "0.9"), {}, "end_threshold must be"),
        (("--turn-eager-end-threshold", "0.3", "--turn-end-threshold", "0.4"), {}, "order"),
        (("--idle-timeout-s", "0"), {}, "idle_timeout_s"),
        ((), {"RTCSTT_PORT": "http"}, r"port cannot be 'http' \(RTCSTT_PORT\)"),
        ((), {"RTCSTT_PORT": "tcp://10.0.0.1:80"}, "enableServiceLinks"),
        ((), {"RTCSTT_CHUNK_MS": "10"}, r"chunk_ms must be from 20 to 200 \(RTCSTT_CHUNK_MS\)"),
        (("--port", "-1"), {"RTCSTT_MAX_CALLS": "3"}, r"port must be from 0 to 65535 \(--port\)"),
        (("--tls-cert", "x"), {}, r"tls_key belong together \(--tls-cert\)"),
        ((), {"RTCSTT_DTX": "maybe"}, "dtx"),
        ((), {"RTCSTT_MODE": "both"}, "mode"),
        ((), {"RTCSTT_FALLBACK": "cloud"}, "fallback"),
        (("--config", "nowhere.toml"), {}, "cannot be read"),
    ],
)
def test_wrong_options_are_refused_by_name(
    words: tuple[str, ...], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(*words, environment=environment)


def test_an_unknown_option_in_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(ConfigError, match=r"no option prot \(.*serve.toml line 1\); did you mean port\?"):
        parse("--config", str(file))


@pytest.mark.parametrize(
    ("written", "refusal"),
    [
        ("host = '::1'\n\nport = 'http'", "port cannot be 'http' .*line 3"),
        ("max-calls = 0", "max_calls must be at least 1 .*line 1"),
        ("port = [1]", "port cannot be a list .*line 1"),
        ("mode = 'both'", "mode must be auto or manual, not 'both' .*line 1"),
        ("[serve]\nport = 1", "no option serve .*line 1"),
        ("port = 1 2", "cannot be read: .*line 1"),
    ],
)
def test_a_wrong_value_in_the_file_is_refused_with_its_line(
    written: str, refusal: str, tmp_path: Path
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(written)
    with pytest.raises(ConfigError, match=refusal) as refused:
        parse("--config", str(file))
    assert "serve.toml" in str(refused.value)


async def test_off_loopback_a_token_is_needed() -> None:
    with pytest.raises(ConfigError, match="token"):
        async with application(Settings(host="0.0.0.0", stt=("ws://127.0.0.1:1",)), {}):
            pass


async def test_a_certificate_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.write_text("no certificate")
    with pytest.raises(ConfigError, match="TLS certificate"):
        tls_context(Settings(tls_cert=file, tls_key=file))


def test_what_an_address_or_a_token_may_do_is_shared_out_among_workers() -> None:
    limits = {"--offers-per-minute": "120", "--max-calls-per-address": "5", "--max-calls-per-token": "4"}
    settings = parse(*(word for pair in limits.items() for word in pair))
    workers = [settings.of_worker(index, 4) for index in range(4)]
    assert sum(worker.offers_per_minute for worker in workers) == 120
    assert [worker.max_calls_per_address for worker in workers] == [2, 1, 1, 1]
    assert [worker.max_calls_per_token for worker in workers] == [1] * 4
    assert parse().of_worker(0, 4).max_calls_per_address is None, "which has a default of its own"


def test_a_turn_password_among_the_options_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    ice_servers_of(parse("--ice-server", "turn:user:password@c:3"))
    assert "TURN password" in caplog.text and "user:password" not in caplog.text


def test_turn_servers_get_logins_for_a_while(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("north\n")
    servers = ("stun:a:1", "turn:b:2", "turn:user:password@c:3")
    stun, turn, fixed = ice_servers_of(Settings(ice_server=servers, turn_secret_file=secret))()
    assert (stun.username, fixed.username, fixed.credential) == (None, "user", "password")
    until, _, name = str(turn.username).partition(":")
    assert 0 < int(until) - time.time() <= 13 * 3600 and name == "rtcstt"
    # By: printf 1433895918:rtcstt | openssl dgst -sha1 -hmac north -binary | base64
    known = turn_login(turn, "north", 1433895918.9)
    assert (known.username, known.credential) == ("1433895918:rtcstt", "VqesGW2NP6l98wVqtgEJaNlACiE=")


def test_the_stts_key_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-the-file\n")
    stt = _stt(
        Settings(stt=("ws://127.0.0.1:1",), stt_key_file=file), Embedded(), {"RTCSTT_STT_KEY": "other"}
    )
    assert isinstance(stt, Cartesia) and stt.api_key == "from-the-file"


@pytest.mark.parametrize(("key", "told"), [({}, True), ({"RTCSTT_STT_KEY": "secret"}, False)])
def test_a_cloud_without_a_key_is_told_at_the_start(
    key: dict[str, str], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    _stt(Settings(stt=("https://stt.example",)), Embedded(), key)
    assert ("RTCSTT_STT_KEY" in caplog.text) == told and "secret" not in caplog.text


async def test_a_language_that_the_recogniser_does_not_understand_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"language cannot be 'de'.*English.*--model whisper-base"):
        async with application(Settings(language="de", model="tiny-en"), {}):
            pass
    async with application(Settings(language="en", model="tiny-en"), {}):
        pass


def table_of_options() -> str:
    rows = ["| option | default | what it is |", "|---|---|---|"]
    for option in dataclasses.fields(Settings):
        value = ", ".join(option.default) if isinstance(option.default, tuple) else option.default
        default = "" if value in (None, "", False) else f"{value}"
        rows.append(f"| `--{option.name.replace('_', '-')}` | {default} | {option.metadata['help']} |")
    return "\n".join(rows)


def test_the_documentation_lists_every_option() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "options.md").read_text()
    assert table_of_options() in page, "docs/options.md should have:\n" + table_of_options()
