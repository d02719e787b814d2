"""The model: tokenizer, four encoders, head.

Letters in shapes, here and in docs/concepts.md: B batch; T C H W video; t h w token grid, s = h·w; n tokens of a
sequence; D width; a heads; k width of a head; K classes.
"""
