"""One run, from its arguments to a finished folder.

arguments         teacher and student
processor         threads that leave room for other work
command_line      parsing, settings, errors in one line
inputs            the data in every form that the steps need
checkpoints       classifiers and tokenizers for the labels at hand
teacher           fine-tuning the teacher, scoring it
guessing          whether the teacher is better than guessing
stored_or_live    stored teacher outputs, or a teacher in every step
student           what a student starts from; stages
layer_search      choosing layers by evidence
search_plan       what a search tries, and what it costs
neuron_choice     choosing inner neurons by evidence
layer_similarity  how alike layers are
lora              what a LoRA run does beyond the trainer
run               building the trainer, training, scoring, finishing
output_folder     other people's folders, interrupted runs
evaluation        scores, predictions, latency
tables            tables of results
model_card        README.md of a student
"""
