"""Timings; run each as `python -m benchmarks.NAME`.

training_speed  a step of distillation against other implementations
sweep_speed     a sweep over strategies, end to end
scaling         cost by the size of the data
profile_step    where the time of a step goes
inference       PyTorch, ONNX and int8
load_app        the app under load
engines         DDP, ZeRO and FSDP against one process
training_setup  what the timings of training share
results         writing result files
"""
