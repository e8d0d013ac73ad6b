"""From files to tokens: sources, tokenizer, shards, and the order in which training reads them."""
