"""The Shapes data set: textured, overlapping shapes in front of a landscape, with exact labels.

`tools/make_shapes.py` is the command. `scene.py` draws one image and all that is known about it,
on the `landscape.py` with the `outlines.py` and `textures.py`; `annotations.py` turns that into
COCO's records, and `files.py` writes them.
"""
