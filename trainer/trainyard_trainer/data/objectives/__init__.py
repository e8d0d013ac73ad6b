"""What a model is trained to say, a file an objective: how documents are packed into rows, and rows become a batch.

A row is made from its tokens, (seed, draw) and nothing else, where `draw` is the row's position in the order of data: masks
differ from epoch to epoch, and are the same again after a resume, on any number of ranks.
"""
