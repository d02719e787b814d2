"""The model: tokens, four encoders, head.

Letters, here and in docs/concepts.md: B batch; T C H W pixel grid; t h w token grid, s = h·w; D width; a heads;
k width of a head; K classes.
"""
