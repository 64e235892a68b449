"""From files or the Hub to tokenized splits.

arguments   which data, and how to read them
loading     the whole way from the arguments to labelled splits
files       csv, tsv, json, jsonl and parquet files
hub         data sets of the Hub, online and offline
columns     which columns hold the text
labels      the label map, and labels as ids
splits      names of splits, splitting off a validation split
tokenizing  tokenized splits, cached
metrics     accuracy, F1, correlations
"""
