"""The studies behind docs/ANALYSIS.md; run each as `python -m experiments.NAME`.

sweep             layer strategies x recipes x seeds
better_students   averages, neurons, other teachers, more text: what else makes better students
student_recipes   the recipes of better_students, and its sentences
other_training    ways of training that the trainer does not have, for student_recipes
kept_sentences    a comparison on SST-2, scored on 10,000 sentences more
rare_classes      answers adjusted for rare classes
shapes            weights of students made in other ways, for better_students
vocabulary        what a smaller vocabulary saves and what it changes
other_vocabulary  students with another vocabulary than their teacher
modernbert_layers students of ModernBERT whose first layer loses its norm
layer_sets        every set of layers, each trained in full
known_mistakes    what the usual mistakes of this exercise cost
trial_length      how long the trials of a layer search must be
small_validation  how far a small validation set misleads
coverage          how often the intervals of a comparison cover the truth
intervals         intervals of a comparison again, from its committed predictions
tables            the tables and numbers of the pages, rebuilt from and held to docs/results
known_figures     the figures that the files of a result give
split_tweets      the splits of the tweets
more_pairs        sentence pairs without labels for RTE
kept_layers       what a student must compute, from the forward pass of its teacher
tiny_classifiers  tiny classifiers of every architecture
architectures     students, adapters and exports of every architecture
fuzz_reader       made-up files of every format, read as they should be or refused
made_up_files     the files of fuzz_reader
everyday          everyday sentences
identity_bias     AUCs and error rates by identity: teacher, student, LoRA, int8
int8_forms        forms of int8 weights and scales, their speed and what the gate says
runtimes          whether other runtimes read an export and answer as the app does
draw_strategies   the picture of the layer strategies
draw_results      the figures of docs/ANALYSIS.md
runs              runs, their predictions and metrics, as the studies use them
"""
