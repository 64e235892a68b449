"""Programs that the tests start as processes of their own.

fork_server            runs scripts in forks of itself
train_worker           trains and logs every step
engine_worker          trains under an engine
memory_worker          measures peak memory
killed_run             a run that kills itself
run_without_compiling  a run that spares DeepSpeed's compilation
watched_app            the app, noting its connections
"""
