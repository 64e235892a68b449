"""The tests and what they share.

tiny_models                 tiny classifiers of every architecture
script_runs                 running the commands, reading what they leave
tiny_architectures          one tiny classifier for each way that layers depend on their number
forked_runs                 running scripts in other processes, without waiting for their imports
small_disks                 disks of a given size, to fill
engine_runs                 running workers under every engine
running_app                 the app as a process
served_model                a model for the app
glue_cache                  a small cache in the form of GLUE's
comments                    the files of comments, and their words
records                     the record of a finished run
comparison_results_by_hand  results that need no training
"""
