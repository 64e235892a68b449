"""A grid of runs and what can be said about it.

arguments       strategies, methods, seeds, and the cells they make
grid            running the cells
time_estimate   how long a grid will take
results         reading finished runs
bootstrap       intervals of scores and differences
calibration     confidence against accuracy
identity_bias   AUCs and error rates by identity
identity_report tables and JSON of it
identity_runs   of the runs of a grid
identity_texts  texts that mention identities
styles          titles, colors and markers of strategies and methods
figures         plots
report          tables and statements
document        Markdown and HTML
"""
