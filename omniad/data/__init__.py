"""Data sets: their layouts, indexes, packs, the miniatures, and the encoder weights' files."""
