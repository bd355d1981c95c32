"""``python -m wsiseg_cli`` is ``wsiseg``."""

from wsiseg_cli.main import main

main()
