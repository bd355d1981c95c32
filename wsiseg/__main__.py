"""``python -m wsiseg`` is ``wsiseg``."""

from wsiseg_cli.main import main

main()
