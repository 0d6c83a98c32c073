"""Bytes on disk: the superblock, the blocks, the header's JSON and the index. Knows no codec and no torch.

`formats/spk.md` is the normative text; this room says the same in Python.
"""
