# The main commands: make demo, make test. Each makes its own .venv if there is none.
PYTHON ?= python3
# An extra package index for torch; PyTorch's own CPU index makes the install small (README.md).
TORCH_INDEX ?=

BIN := .venv/bin

# Folders of photos for the shipped encoder besides drawn images, and the time for its training in minutes.
PHOTOS ?=
MINUTES ?= 240

.PHONY: demo test test-long attack pretrained check format clean

demo: .venv/installed
	$(BIN)/simile demo

# Two workers, each runs whole files: most tests wait for a process or the disk half of the time.
test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The long forms: hundreds of kills, uploads, cleanup plans and requests; catalogues on a server of PostgreSQL; and Ray.
test-long: .venv/installed-long
	$(BIN)/python -m pytest -n 2 -m long
	$(BIN)/python -m pytest -n 2 --dist loadfile --database postgresql tests/store tests/indexer tests/dedup

# Attacks on a service of this machine: what they cost, and what ordinary clients get meanwhile.
attack: .venv/installed
	$(BIN)/python -m benchmarks.service.attacks

# The shipped encoder, into ./pretrained; an interrupted training continues (models/pretrained/shipped/README.md).
pretrained: .venv/installed
	SIMILE_TRAIN_MEMORY=4000000000 $(BIN)/simile train $(PHOTOS) --drawn 24000 --recipe invariant --seed 1 \
		--minutes $(MINUTES) --home pretrained-home $(if $(wildcard pretrained-home/encoders/.training),--resume)
	$(BIN)/simile encoders export "$$(ls pretrained-home/encoders)" pretrained --half

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[dev]'
	touch $@

# Packages that only the long tests need, because they are large.
.venv/installed-long: .venv/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[ray]'
	touch $@

clean:
	rm -rf .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache
