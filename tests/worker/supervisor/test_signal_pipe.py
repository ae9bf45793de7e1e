"""Which signals a supervisor receives when some were ignored before its start."""

from __future__ import annotations

import os
import signal

from worker.supervisor.signal_pipe import SignalPipe
from worker.supervisor.supervisor import STOPS


def test_under_nohup_hang_up_stays_ignored_and_in_the_background_interrupt_is_received() -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    pipe = SignalPipe()
    try:
        pipe.listen(STOPS)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGINT)
        pipe.wait(20)
        assert pipe.signals() == [signal.SIGINT]
    finally:
        pipe.detach()
        for number, handler in before.items():
            signal.signal(number, handler)
