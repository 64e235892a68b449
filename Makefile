PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

STUDENT := outputs/toxic_comments-odd

.PHONY: quickstart app test test-newest style quality clean

# Distils the sample data set's teacher into a student of half its depth, on a fresh machine, and prints the table.
quickstart: $(VENV)/run
	$(BIN)/python run_distillation.py

# The page and API with the quickstart's student, which is trained and exported first if need be; ARGS="--port 8000" and
# so on are passed on.
app: $(STUDENT)/export/metrics.json
	$(BIN)/python -m app --model_dir $(STUDENT) $(ARGS)

$(STUDENT)/export/metrics.json: $(STUDENT)/distillation.json | $(VENV)/app
	$(BIN)/python run_export.py --overwrite_output_dir

$(STUDENT)/distillation.json: | $(VENV)/app
	$(BIN)/python run_distillation.py

# Lint, then every fast test, two files at a time; `make test ARGS="-m slow"` for the slow ones.
test: $(VENV)/test quality
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# What the project assumes of transformers and peft, with their newest releases instead of the pinned ones.
test-newest: $(VENV)/test
	$(BIN)/python -m pip install --quiet --upgrade --no-deps --target $(VENV)/newest transformers peft
	PYTHONPATH=$(VENV)/newest HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "" \
		tests/test_architectures.py tests/test_layer_mapping.py tests/test_lora.py tests/test_shapes_of_teachers.py \
		tests/test_layer_losses.py tests/test_distill_trainer.py $(ARGS)

quality: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(VENV)/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The environment and caches. `outputs` stays: its teachers and grids took hours.
clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps are renewed when the requirements change.
$(VENV)/run: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install -r requirements.txt
	touch $@

$(VENV)/app: requirements.txt requirements-app.txt app/requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install -r requirements-app.txt
	touch $@

$(VENV)/test: requirements.txt requirements-app.txt app/requirements.txt requirements-test.txt | $(BIN)/python
	$(BIN)/python -m pip install -r requirements-test.txt
	touch $@
