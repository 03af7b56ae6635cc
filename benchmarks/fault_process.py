"""What `faults.py` has wrong around a process: its standard streams, its locale, and when it ends."""

import os
import random
import signal
import subprocess
import time
from typing import Any

from fault_campaign import SEED, Campaign, Run, contents
from fault_commands import Command

KILLS = {signal.SIGKILL: 5, signal.SIGINT: 3}


# ---- standard streams, locales


def with_streams(command: Command, which: str) -> Run:
    def run(campaign: Campaign) -> list[str]:
        healthy = command.ending is None or campaign.result(command)
        campaign.fresh()
        arguments = command.arguments(campaign, "out/result")
        codes: tuple[int, ...] = (0,)
        if which.startswith("standard output"):
            codes = (1,)
        if which == "standard input closed":
            process = campaign.started(arguments, stdin=None, preexec_fn=lambda: os.close(0))
        elif which == "standard output closed":
            process = campaign.started(arguments, stdout=None, preexec_fn=lambda: os.close(1))
        elif which == "standard error closed":
            process = campaign.started(arguments, stderr=None, preexec_fn=lambda: os.close(2))
        elif which == "all closed":
            codes = (1,)
            process = campaign.started(
                arguments, stdin=None, stdout=None, stderr=None, preexec_fn=lambda: os.closerange(0, 3)
            )
        elif which.endswith("full"):
            with open("/dev/full", "wb") as full:
                streams: dict[str, Any] = {"stdout" if "output" in which else "stderr": full}
                process = campaign.started(arguments, **streams)
        else:
            reading, writing = os.pipe()
            os.close(reading)
            process = campaign.started(arguments, stdout=writing)
            os.close(writing)
        outcome = campaign.ended(process)
        wrong = campaign.judged(command, outcome, codes=codes)
        if healthy is not True:
            written, there = (set(contents(one)) for one in (healthy[0], campaign.place / "out"))
            wrong += [f"{name} was not written" for name in sorted(written - there)]
        return wrong

    return run


LOCALES = {
    "LC_ALL=C": {"LC_ALL": "C", "LANG": "C"},
    "ASCII only": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
    "tr_TR.UTF-8": {"LC_ALL": "tr_TR.UTF-8"},
}
PROMPTS = {"emoji": "a 🦊 and an äpple".encode(), "bytes that are no letters": b"a \xff fox"}


def in_a_locale(command: Command, locale: str, prompt: str) -> Run:
    """The prompt also names the files."""

    def run(campaign: Campaign) -> list[str] | None:
        if locale.startswith("tr_TR") and b"tr_TR.utf8" not in subprocess.check_output(["locale", "-a"]):
            return None
        campaign.fresh()
        said = PROMPTS[prompt]
        arguments = [
            os.fsencode(one).replace(b"a fox", said).replace(b"result", said.replace(b" ", b"_"))
            for one in command.arguments(campaign, "out/result")
        ]
        outcome = campaign.ended(campaign.started(arguments, environment=LOCALES[locale]))
        # Where Python was told to know nothing but ASCII, no other letter of a prompt comes through.
        is_text = command.prompted and (prompt != "emoji" or locale == "ASCII only")
        wrong = campaign.judged(command, outcome, codes=(2,) if is_text else (0,))
        if is_text and prompt == "emoji" and "LC_ALL=C.UTF-8" not in outcome.error:
            wrong.append(f"nothing said what to do: {outcome.error}")
        return wrong

    return run


# ---- ends at random moments


def ended_by(command: Command, number: signal.Signals, attempt: int) -> Run:
    def run(campaign: Campaign) -> list[str]:
        healthy, seconds = campaign.result(command)
        campaign.fresh()
        # Most of the time goes into starting; the second half is where files are written.
        chance = random.Random(f"{SEED} {command.name} {number.name} {attempt}")
        moment = seconds * (0.4 + 0.6 * chance.random())
        process = campaign.started(command.arguments(campaign, "out/result"))
        time.sleep(moment)
        process.send_signal(number)
        outcome = campaign.ended(process)
        orderly = number != signal.SIGKILL
        wrong = campaign.unsound(command, hidden=number == signal.SIGINT)
        if orderly and any(word in outcome.error for word in ("Traceback", "Exception ignored")):
            wrong.append(f"Traceback after {moment:.2f} of {seconds:.2f} s: {outcome.error.strip().splitlines()[-1]}")
        again = campaign.ended(campaign.started(command.arguments(campaign, "out/result")))
        if again.code != 0:
            wrong.append(f"given again, it ended with {again.code}: {again.error.strip()[-300:]}")
        wrong += campaign.unsound(command, hidden=False)
        # A folder of pictures that nobody named may hold those of both runs.
        missing = set(contents(healthy)) - set(contents(campaign.place / "out"))
        return wrong + [f"given again, it has not written {name}" for name in sorted(missing)]

    return run
