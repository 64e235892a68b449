"""A web page and an HTTP API for text classifiers: `python -m app --help`, docs/APP.md.

models         a folder becomes a model: texts to probabilities
batching       texts of all users, run together
service        models, threads, limits and statistics
server         the application: page and API behind a guard
api            POST /api/classify, GET /healthz, GET /metrics
page           the page
explain        words that count for an answer
comments_file  csv files in and out
"""
