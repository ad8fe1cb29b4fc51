# make run   set up, run the whole method on the embedded benchmark, write figures/
# make test  set up, sliders in a browser (if there is one; alone, as waits are measured), unit tests,
#            every notebook
# make bench set up, plain forms against fast ones -> figures/performance.json and .png
# make lab   set up, open JupyterLab on the notebooks
# make lint, mutations, interruptions, repeats, coverage   see CONTRIBUTING.md

PYTHON ?= python3
BIN := .venv/bin
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=300
# Files of tests side by side, in their order: by size, the few long tests would come last.
SIDE_BY_SIDE := -n logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
# Idle threads that spin slow torch down several times on a shared machine.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: run test bench lab notebooks html lint mutations interruptions repeats coverage clean

run: .venv/run.stamp
	$(BIN)/python -m oal_lite $(ARGS)

test: .venv/test.stamp
	$(BIN)/python -m pytest tests/test_browser.py
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --ignore=tests/test_browser.py tests
	OAL_LITE_SMOKE=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) $(NBVAL) -p no:cacheprovider notebooks

bench: .venv/test.stamp
	$(BIN)/python -m pytest -q tests/benchmarks $(ARGS)

lab: .venv/run.stamp
	$(BIN)/jupyter lab notebooks

# Execute every notebook in full size and keep its outputs. Without progress bars: their widgets
# would be stored in the notebook, where GitHub and a Lab that trusts it stumble over them.
notebooks: .venv/test.stamp
	$(BIN)/python -m oal_lite.notebooks notebooks/*.ipynb
	cd notebooks && TQDM_DISABLE=1 ../$(BIN)/jupyter nbconvert --to notebook --inplace --execute *.ipynb solutions/*.ipynb
	$(BIN)/nbstripout --keep-output --keep-count notebooks/*.ipynb notebooks/solutions/*.ipynb
	$(BIN)/python -m oal_lite.notebooks notebooks/*.ipynb notebooks/solutions/*.ipynb

# Pages with words for every picture; nbconvert's default template would leave them out. The classic
# one hides the triangle of what can be opened, and sets words in tables to the right.
STYLE := <style>summary{display:list-item!important;cursor:pointer}
STYLE += .text_cell_render td,.text_cell_render th{text-align:left!important}</style>
html: .venv/test.stamp
	$(BIN)/jupyter nbconvert --to html --template classic --output-dir build/html notebooks/*.ipynb
	sed -i.old 's|</head>|$(STYLE)</head>|' build/html/*.html && rm build/html/*.old

lint: .venv/test.stamp
	$(BIN)/ruff check oal_lite tests notebooks
	$(BIN)/ruff format --check oal_lite tests

# Faults made by hand in copies of the package: is each noticed by a test?
mutations: .venv/test.stamp
	$(BIN)/python tests/mutations.py $(ARGS)

# Killed twenty times at random moments, by SIGKILL and Ctrl-C: is the result the same?
interruptions: .venv/test.stamp
	$(BIN)/python tests/interruptions.py $(ARGS)

# Every notebook five times, as strangers run it: does it pass, and in how much memory?
repeats: .venv/test.stamp
	$(BIN)/python tests/repeats.py $(ARGS)

# Lines of the package that the tests run: 90 % or more. What workers run is not counted.
coverage: .venv/test.stamp
	$(BIN)/python -m coverage run --source=oal_lite -m pytest tests -q --ignore=tests/test_browser.py
	$(BIN)/python -m coverage report --show-missing --skip-covered --fail-under=90

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/test.stamp: .venv/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv runs
