# The commands of this project. `make help` lists them.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup check lint types test demo train-demo bench sync-results fmt clean

help:            ## show this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.done ## make .venv, install everything

$(VENV)/.done: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[train,infer,evaluate,app,dev]'
	@$(BIN)/python -c 'import cv2' || { echo "OpenCV cannot be imported: on Debian and Ubuntu, apt-get install libgl1 libglib2.0-0"; exit 1; }
	@$(BIN)/lipforge models fetch i3d || echo "without I3D, the tests of FVD's network are skipped"
	@$(BIN)/lipforge models fetch voice || echo "without the voice encoder, the test of its numbers is skipped"
	@touch $@

check: setup lint types test ## what CI runs

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:           # pyright reads no import hooks, so it gets the packages where an install would put them
	@mkdir -p build/typed/lipforge
	@for file in lipforge/*.py; do ln -sfn "$(CURDIR)/$$file" build/typed/lipforge/; done
	@for folder in datasets_manifest model pipeline train; do ln -sfn "$(CURDIR)/$$folder" build/typed/lipforge/$$folder; done
	$(BIN)/pyright --pythonpath $(BIN)/python

test:            # two at once, a file each: more would starve the tests of stalls; threads of BLAS would wait for each other
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

demo: setup      ## make a talking video from a photograph and run the main job on it
	mkdir -p demo/videos/en/astronaut
	$(BIN)/python -m tests.talking_photo demo/videos/en/astronaut/talking.mp4 --duration-s 14 --offset 3
	$(BIN)/lipforge prepare demo/videos --out demo/dataset --path-template '{language}/{speaker}/'
	@echo; echo "Look at the report above, and at: $(BIN)/lipforge explain demo/dataset talking.mp4"

train-demo: setup ## train a small SyncNet, stage 1 and stage 2 on made talking videos, on a CPU
	$(BIN)/python -m benchmarks.train_demo demo/train

bench: setup     ## measure against named baselines
	$(BIN)/python -m benchmarks.prepare
	$(BIN)/python -m benchmarks.scorers
	$(BIN)/python -m benchmarks.stream
	$(BIN)/python -m benchmarks.manifest
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.infer_speed
	$(BIN)/python -m benchmarks.infer_dtype

sync-results: setup ## the pages on the lip-sync scorer, from real clips: make sync-results CLIPS=FOLDER
	$(BIN)/python -m benchmarks.lip_sync $(or $(CLIPS),$(error name a folder of videos with a clips.csv: make sync-results CLIPS=FOLDER)) --out docs/models/lip_sync_results.md
	$(BIN)/python -m benchmarks.lip_sync.lengths $(CLIPS) --out docs/models/lip_sync_lengths.md

fmt: setup       ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:           ## remove what demo and bench made
	rm -rf demo bench
