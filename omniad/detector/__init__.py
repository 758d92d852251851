"""Your own images: `fit` a detector on good ones, `predict` on new ones, `export` it.

The three commands of these names, and the Python API `omniad.fit`, `omniad.predict`, `omniad.export`,
`omniad.Detector`. docs/own-images.md describes them.
"""
