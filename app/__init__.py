"""Web page and HTTP API for text classifiers; `python -m app --help` says how to start it, docs/APP.md how it works."""
