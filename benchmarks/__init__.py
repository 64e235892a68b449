"""Timings; run each as `python -m benchmarks.NAME`.

training_speed  an epoch of distillation against other ways of training
sweep_speed     a sweep over four strategies, end to end
scaling         cost by the number of examples
profile_step    where the time of a training step goes
step_speed      a training step, against an earlier build's
attention       attention and dropout, by precision, rate and length
vocabulary_step what a smaller vocabulary saves of a training step
busy_machine    what other work on the processor costs, against an earlier build
grid            a grid of runs side by side, against an earlier build's
earlier_build   an earlier build beside this one, for busy_machine, grid and step_speed
inference       PyTorch, ONNX and int8
score_file      scoring a file with the app, its rate and memory
load_app        the app under load
empty_app       the app without a model, for load_app
engines         DDP, ZeRO and FSDP against one process
speed_tables    tables and the chart of training_speed
training_setup  data, teacher, student and loops that the timings of training share
measuring       clocks, memory, processes
results         result files in docs/results/
"""
