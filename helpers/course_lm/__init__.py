"""The course LM: its world of facts, its corpus, tokenizer, training and report card."""
