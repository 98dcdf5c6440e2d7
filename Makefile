# The few commands. Everything runs from .venv, made from hash-checked locks.
.PHONY: setup run sandbox demo test check bench coverage mutants judge screenshots lock
UV := $(shell command -v uv 2>/dev/null || echo .venv/bin/uv)
STAMP := .venv/.installed

setup: $(STAMP)

$(STAMP): requirements-dev.lock pyproject.toml verifier/pyproject.toml
	test -x .venv/bin/python || python3 -m venv .venv
	command -v uv >/dev/null 2>&1 || test -x .venv/bin/uv || .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --no-deps -r requirements-uv.lock
	$(UV) pip install --quiet --python .venv/bin/python --require-hashes -r requirements-dev.lock
	$(UV) pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable . --editable verifier
	touch $(STAMP)

run: setup
	.venv/bin/pluct serve

# Three at once, file by file: most tests wait for a server of theirs.
test: setup
	.venv/bin/python -m pytest -q -n 3 --dist loadfile

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

bench: setup
	PYTHONPATH=tests:tests/verifier .venv/bin/python -m bench

coverage: setup
	.venv/bin/python -m coverage run -m pytest -q tests/test_ledger.py tests/test_payments.py tests/test_clawback.py tests/test_commands.py tests/test_tickets.py tests/test_histories.py -k "not in_sqlite and not in_postgresql"
	.venv/bin/python -m coverage report

mutants: setup
	rm -rf mutants
	.venv/bin/mutmut run
	.venv/bin/mutmut results

# An engine and an M-Pesa that is played: money becomes credits, with no account anywhere.
PORT ?= 8787
sandbox: setup
	cd tests && ../.venv/bin/python -m doubles.sandbox --port $(PORT)

# The whole story: a user buys, an app vends, a backend works, fails once, and the statement says where all of it went.
demo: setup
	PYTHONPATH=tests .venv/bin/python -m examples.transcriber.demo --port $(PORT)

# By hand, never in CI: what others wrote, as judges of our gateways. It needs a package index.
judge: setup
	cd tests && ../.venv/bin/python -m judges.daraja_mock
	cd tests && ../.venv/bin/python -m judges.localstripe

# Every page of the console, in docs/screenshots. It needs Chromium.
screenshots: setup
	cd tests && ../.venv/bin/python -m screenshots

lock:
	$(UV) pip compile -q --generate-hashes --universal --no-emit-index-url --no-header pyproject.toml -o requirements.lock
	$(UV) pip compile -q --generate-hashes --universal --no-emit-index-url --no-header pyproject.toml --group dev -o requirements-dev.lock
	echo uv | $(UV) pip compile -q --generate-hashes --universal --no-emit-index-url --no-header - -o requirements-uv.lock
