"""One run, from its arguments to a finished folder.

arguments         teacher and student
processor         threads that leave room for other work
command_line      parsing, settings, errors in one line
inputs            the data in every form that the steps need
checkpoints       loading classifiers and tokenizers; label names, label order and vocabulary
teacher           fine-tuning the teacher, scoring it
guessing          whether the teacher is better than guessing
stored_or_live    stored teacher outputs, or a teacher in every step
student           what a student starts from; stages
layer_search      choosing layers by evidence
search_plan       what a search tries, and what it costs
neuron_choice     choosing inner neurons by evidence
layer_similarity  similarity of layers, and how much each layer changes its input
lora              what a LoRA run does beyond the trainer
logit_adjustment  more answers for rare classes
run               building the trainer, training, scoring, finishing
output_folder     which folders a run may write to, continuing interrupted runs
evaluation        scores, predictions, latency
tables            tables of results
model_card        README.md of a student
hub               its repository on the Hub
"""
