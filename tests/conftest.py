"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell that starts a program in the background has it ignore Ctrl-C, and all that it starts too. Tests stop servers
# and searches by that signal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
