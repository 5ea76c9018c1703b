"""The unit `sign`: one bit a weight. A masked weight changes its sign in place; its magnitude stays.

`encoding` says how a weight of each encoding changes its sign, `places` which runs of a patch hold the weights, `reading` which
tensors can be locked so, and `masks` draws what is flipped.
"""
