"""A grid of runs and what can be said about it.

methods         what makes a student, and the baselines
arguments       strategies, methods, seeds, and the cells they make
grid            running the cells
sharing         several processes share a grid
time_estimate   how long a grid will take
baselines       runs of the methods that are no students
predictions     what a run answered, small enough to be committed
results         reading finished runs
metrics         scores as functions of sums over examples
bootstrap       intervals of scores and differences
calibration     confidence against accuracy
thresholds      precision, recall and F1 by threshold
identity_bias   AUCs and error rates by identity
identity_report tables and JSON of it
identity_runs   of the runs of a grid
identity_texts  texts that mention identities
styles          titles, colors and markers of strategies and methods
figures         plots
report          tables and statements
document        Markdown and HTML
"""
