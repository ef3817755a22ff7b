"""The course LM: its world of facts, its corpus, its tokenizer, its training and its report card."""
