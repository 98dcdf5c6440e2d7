# The few commands. Everything runs from .venv, made from hash-checked locks.
.PHONY: setup run test check bench judge lock
UV := $(shell command -v uv 2>/dev/null || echo .venv/bin/uv)
STAMP := .venv/.installed

setup: $(STAMP)

$(STAMP): requirements-dev.lock pyproject.toml
	test -x .venv/bin/python || python3 -m venv .venv
	command -v uv >/dev/null 2>&1 || test -x .venv/bin/uv || .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --no-deps -r requirements-uv.lock
	$(UV) pip install --quiet --python .venv/bin/python --require-hashes -r requirements-dev.lock
	$(UV) pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	touch $(STAMP)

run: setup
	.venv/bin/pluct serve

test: setup
	.venv/bin/python -m pytest -q

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

bench: setup
	.venv/bin/python -m bench

# By hand, never in CI: what others wrote, as judges of our gateways. It needs a package index.
judge: setup
	cd tests && ../.venv/bin/python -m judges.daraja_mock

lock:
	$(UV) pip compile -q --generate-hashes --universal --no-emit-index-url --no-header pyproject.toml -o requirements.lock
	$(UV) pip compile -q --generate-hashes --universal --no-emit-index-url --no-header pyproject.toml --group dev -o requirements-dev.lock
	echo uv | $(UV) pip compile -q --generate-hashes --universal --no-emit-index-url --no-header - -o requirements-uv.lock
