"""Text: normalising, words, subword tokenizer."""
