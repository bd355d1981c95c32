"""Training of the renderers that are networks against discriminators: ``python -m wsiseg.train.generators``.

``recipe`` → ``run`` → a ``Contest`` of ``run.SYSTEMS`` → ``loop``. The networks that are kept, and how they render,
are :mod:`wsiseg.synth.renderers`'.
"""
