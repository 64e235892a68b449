"""The studies behind docs/ANALYSIS.md; run each as `python -m experiments.NAME`.

sweep             strategies x recipes x seeds
layer_sets        all sets of layers, each trained in full
known_mistakes    what the usual mistakes cost
trial_length      how long a trial has to be
small_validation  what a small validation split can tell
more_pairs        pairs without labels for RTE
everyday          60 everyday sentences
draw_strategies   the picture of the strategies
runs              what the studies share
"""
