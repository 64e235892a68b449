"""LoRA on a student of teacher layers; installed with `distill_trainer`, needs `peft`.

arguments  rank, targets, initialization
adapters   putting adapters on a student
loading    the student rebuilt from its teacher, the adapter on it
"""
