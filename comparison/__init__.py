"""A grid of runs and what can be said about it.

arguments      strategies, methods, seeds, and the cells they make
grid           running the cells
time_estimate  how long a grid will take
results        reading finished runs
bootstrap      intervals of scores and differences
calibration    confidence against accuracy
styles         titles, colors and markers of strategies and methods
figures        plots
report         tables and statements
document       Markdown and HTML
"""
