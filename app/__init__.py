"""Web page and HTTP API for text classifiers; `python -m app --help` says how to start them, docs/APP.md the rest.

models         texts in, probabilities out
batching       texts of all users in batches
service        models, limits, counts
server         routes, errors, headers
api            POST /api/classify
page           the page
explain        words that speak for an answer
comments_file  csv files
"""
