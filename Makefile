# Every target is a few lines that CI calls too. `make` prints this list.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup lancedb run demo test lint format protos lock unit contract integration citations clients security bench bench-gateway bench-chat bench-limits bench-websockets bench-retrieval bench-citations bench-index bench-ingest reference clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv, install the locked packages and build the local embedding model (skipped when done)
	@$(PYTHON) scripts/setup.py

lancedb: ## Install LanceDB, too: an optional store of vectors, with which the tests run
	@$(PYTHON) scripts/setup.py --with lancedb

run: setup ## Set everything up and run Wireroom on this machine (no Docker, root, keys or cloud)
	@$(BIN)/wireroom run

demo: setup ## Serve the sample feed and documents for the tour
	@$(BIN)/wireroom demo

test: lancedb ## Set everything up and run every check and test
	@$(BIN)/python scripts/run_tests.py

lint: lancedb ## Style, types, architecture rules, generated code and lock freshness
	@$(BIN)/python scripts/lint.py

format: setup ## Format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

protos: setup ## Regenerate the code of protos/
	@$(BIN)/python scripts/generate_protos.py

lock: setup ## Resolve requirements.lock anew
	@$(BIN)/python scripts/lock.py

unit contract integration citations clients security: lancedb
	@$(BIN)/python scripts/run_tests.py $@

bench-gateway: setup ## The gateway's hot path beside nginx and a naive gateway, in one run
	@$(BIN)/python scripts/bench_gateway.py

reference: setup ## Write docs/reference from the code
	@$(BIN)/python scripts/api_reference.py

bench-chat: setup ## Chat completions through gateway and chat service beside nginx, whole and streamed, in one run
	@$(BIN)/python scripts/bench_chat.py

bench-limits: setup ## Ten minutes of random load on four replicas: does any window hold more than the limit?
	@$(BIN)/python scripts/bench_limits.py

bench-websockets: setup ## Memory of the gateway per open WebSocket, and the time of a ping beside them
	@$(BIN)/python scripts/bench_websockets.py

bench-retrieval: setup ## nDCG and recall of words, vectors and both on the judged collections in WIREROOM_TEST_DATA
	@$(BIN)/python services/rag/benchmarks/retrieval_quality.py --model-dir .build/models

bench-index: setup ## Retrieval from 100,000 chunks: times, recall, build time, size (CHUNKS=1000000 for a million)
	@$(BIN)/python scripts/bench_index.py --chunks $(or $(CHUNKS),100000)

bench-ingest: setup ## Reading and indexing of documents per CPU second, and whether the process answers during large uploads
	@$(BIN)/python scripts/bench_ingest.py

bench-citations: setup ## How often quoted answers abstain where the sources are about something else
	@$(BIN)/python scripts/bench_citations.py

bench: setup ## Measure what docs/benchmarks.md reports
	@$(BIN)/python scripts/bench.py

clean: ## Remove what setup made (not your data)
	rm -rf .venv .build .mypy_cache .ruff_cache .pytest_cache .hypothesis
