"""Web page and HTTP API for text classifiers: `python -m app --help` says how to start them, docs/APP.md the rest."""
