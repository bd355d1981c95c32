"""The command line: resolves arguments, calls one library function a command, prints what came of it."""
