"""From files or the Hub to tokenized splits.

    data = load_data(data_args, seed=42)                # loading: labeled splits and the label map
    tokenized = tokenize(data, tokenizer, data_args)    # tokenizing: what a Trainer takes
    compute_metrics = build_compute_metrics(data.labels, data_args.task_name)    # metrics

arguments        which data, and how to read them
loading          from the arguments to splits with labels; calls the modules below
sources          the splits as a GLUE task, a data set, files or the sample data hold them
files            readers of csv, tsv, json, jsonl and parquet files; a new format is a new reader
hub              data sets of the Hub, online and offline
caches           folders for caches, also where HF_HOME is read-only
texts            which columns hold the text
label_columns    which columns hold the labels, and what they hold
label_lists      lists of labels: names, numbers of classes or shares
readings         what the labels mean: one label, several labels, scores
labels           the order of the labels, their ids
teacher_columns  scores of a teacher outside this project
names            lists of names as one word of a command line
columns          the type of a column, and rows without a value
splits           names of splits, splitting off a validation split, the first n examples
tokenizing       tokenized splits, cached on disk
trimming         the pieces of a vocabulary that the training texts need
answers          logits and labels as probabilities, ids, 0 or 1
metrics          accuracy, F1, correlations and others
thresholds       from which probability a text has a label
"""
