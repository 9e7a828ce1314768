# `make demo` and `make test` each do the whole set-up on a machine that has Python ≥ 3.11 and nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
# Torch's thread pools spin while they wait, which on few cores takes the time from the process they wait for.
export OMP_WAIT_POLICY ?= passive
# Many processes import torch: compiled once, it loads in a third of the time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-slow lint resolve docs bench clean
setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: make PYTHON=/path/to/python3.11 …"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' || { echo "$(PYTHON) cannot make environments: apt-get install python3-venv"; exit 2; }
	@test -x .uv/bin/uv || { $(PYTHON) -m venv .uv && .uv/bin/python -m pip install -q --disable-pip-version-check "uv==$$(sed -n 's/^uv==//p' constraints.txt)"; }
	@test -x $(BIN)/python || .uv/bin/uv venv -q --python $(PYTHON) .venv
	.uv/bin/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/songsight demo $(ARGS)

# The tests that take minutes each, trainings that are killed and an S3 store, are `make test-slow`.
test: $(READY)
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# That everything has a wheel for 64-bit ARM too, as Debian 12 and Ubuntu 22.04 (and what is newer) take them.
resolve: $(READY)
	.uv/bin/uv pip compile -q --python-platform aarch64-manylinux_2_35 --python-version 3.11 --only-binary :all: \
		-c constraints.txt --extra dev pyproject.toml -o /dev/null

docs: $(READY)
	$(BIN)/python docs/options.py

# Those that need nothing but themselves; bridge.py wants a demo's folder and codes.py an annotated one.
BENCHES := bench/mel.py bench/tower.py bench/train.py bench/plan.py bench/retrieval.py bench/naming.py bench/annotate.py
bench: $(READY)
	@for f in $(BENCHES); do echo "== $$f"; $(BIN)/python $$f || exit 1; done

clean:
	rm -rf .venv .uv demo-out .demo-cache build dist
