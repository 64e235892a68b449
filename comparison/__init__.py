"""A grid of runs and what can be said about it.

methods        what makes a student, and the baselines
arguments      strategies, methods, seeds, and the cells they make
grid           running the cells
sharing        several processes share a grid
time_estimate  how long a grid will take
baselines      runs of the methods that are no students
predictions    what a run answered, small enough to be committed
results        reading finished runs
metrics        scores as functions of sums over examples
bootstrap      intervals of scores and differences
calibration    confidence against accuracy
figures        plots
report         tables and statements
document       Markdown and HTML
"""
