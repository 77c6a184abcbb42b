"""How the bundled checkpoint `eventide-tiny` is made: its text, its tokenizer, its training and its evaluation.

Everything the model has seen is written by the seeded generator in this folder; nothing is downloaded. In order:

    words.py      the closed lexicon, and invented names beyond it
    items.py      what an exchange, a story and a document are; the split into training and held-out
    stories.py    little stories with facts that can be asked about       plots.py   what can happen in them
    numbers.py    sums, comparisons, sorting, counting                     talk.py    small talk, lists of facts
    corpus.py     mixes them into documents and renders them as the chat template does
    train_tokenizer.py · train.py · evaluate.py · card.py

Run them with `tools` on the path, for example `PYTHONPATH=tools python -m train_tiny.train --help`.
"""
