# Verbs. PYTHON names the interpreter of the environment to build and test in.
PYTHON ?= .venv/bin/python

.PHONY: build pgo test ctest fuzz bench performance count lint fmt docs site wheel wheels clean nightly

build:          ## compile in place, for work on the sources
	$(PYTHON) -m pip install -q -e '.[test]'

pgo:            ## compile in place with gcc: to count, trained by the load of the benchmarks, then by what was counted
	rm -rf build/profile
	FASTSERVE_LTO=0 FASTSERVE_PROFILE=make $(PYTHON) setup.py -q build_ext --inplace
	$(PYTHON) -m benchmarks train
	FASTSERVE_PROFILE=use $(PYTHON) setup.py -q build_ext --inplace

test:           ## everything the CI runs
	$(PYTHON) -m pytest

ctest:          ## the C core alone: sanitizers, guard pages, every SIMD level
	$(MAKE) -C tests/c

fuzz:           ## fuzz the C core for SECONDS per target
	$(MAKE) -C tests/fuzz run SECONDS=$(or $(SECONDS),60)

bench:          ## side by side with whatever peers are installed
	$(PYTHON) -m benchmarks run

performance:    ## measure everything, for an hour or more, and write docs/performance.md
	$(PYTHON) -m benchmarks report --run --page docs/performance.md

count:          ## instructions per request against the committed baseline: more than 5 % over fails
	$(PYTHON) -m benchmarks callgrind --check

lint:
	$(PYTHON) -m ruff check . && $(PYTHON) -m mypy

fmt:
	$(PYTHON) -m ruff format fastserve tests benchmarks examples docs

docs:           ## regenerate the pages made from tables
	$(PYTHON) docs/generate.py

site:           ## the documentation as a site, into build/site; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build -q

wheel:          ## for this machine and this Python, into dist/
	$(PYTHON) -m pip wheel -q --no-deps . -w dist

wheels:         ## for every Linux with glibc 2.17, x86-64 and arm64, and each of PYTHON, without a container
	PYTHON="$(PYTHON)" bash .ci/wheels

clean:
	rm -rf build dist *.egg-info .benchmarks
	find fastserve -name '*.so' -delete

nightly:        ## what is too heavy for CI: other Pythons, long fuzzing
	bash .ci/nightly
