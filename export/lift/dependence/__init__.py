"""Which frames (`frames`), and which rows of the batch (`rows`), a value depends on, whatever the method that answers.

Both are answered by trials on values that were recorded from the model: what is exchanged in an argument may move
nothing but its own frame or row of the result.
"""
