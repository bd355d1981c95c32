"""Training of the renderers that are networks: ``wsiseg synth train``.

``recipe`` → ``run`` → a ``Contest`` of ``run.SYSTEMS`` → ``loop``. The networks that are kept, and how they render,
are :mod:`wsiseg.synth.renderers`'.
"""
