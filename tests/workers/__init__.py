"""Programs that the tests start as processes of their own.

train_worker   trains and logs every step
engine_worker  trains under an engine
memory_worker  measures peak memory
fork_server             runs scripts in forks of itself
run_without_compiling   a script without compiled extensions
killed_run     a run that kills itself
watched_app    the app, noting its connections
"""
