"""A web page and an HTTP API for text classifiers: `python -m app --help`, docs/APP.md.

models         a folder becomes a model: texts to probabilities
batching       texts of all users, run together
service        models, threads, limits and statistics
server         the application: page and API behind a guard
api            POST /api/classify, GET /healthz, GET /metrics
perspective    POST /v1alpha1/comments:analyze, in the form of Google's Perspective API
page           the page
cards          answers as HTML
about          facts about a model, its thresholds and its identity bias, as HTML
explain        words that count for an answer
comments_file  csv files in and out
score          `python -m app.score`: files larger than memory
rows           rows from and to csv, jsonl and parquet
cores          how many threads of models run
"""
