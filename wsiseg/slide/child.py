"""``python -m wsiseg.slide.child SLIDE``: the process that reads for a :class:`wsiseg.slide.lethal.ChildReader`.

Pickles over pipes between processes of one program: the slide's description first, then an answer to each question
on standard input; an exception is an answer too. It ends with its parent's end of the pipe.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO


def serve(path: Path, questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no more questions."""
    from wsiseg.slide.open import _open_reader

    def answer(value: Any) -> None:
        pickle.dump(value, answers, protocol=5)
        answers.flush()

    try:
        reader = _open_reader(path)
    except Exception as error:
        answer(error)
        return
    answer(reader.description)
    while True:
        try:
            method, *arguments = pickle.load(questions)
        except EOFError:
            return
        try:
            found = getattr(reader, method)(*arguments)
        except Exception as error:
            found = error
        answer(found)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the parent, whose end is this one's
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not come between the answers
    serve(Path(sys.argv[1]), sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
