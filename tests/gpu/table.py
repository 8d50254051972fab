"""The table of the checks: printed line by line, and written as JSON after each."""

import json
import statistics


class Table:
    def __init__(self, path, about):
        self.path = path
        self.result = {"about": about, "lines": [], "seconds": {}}
        print(json.dumps(about))
        print(f"{'check':<58} {'ours':>10} {'peer':>10} {'ratio':>7} {'worst':>7} {'goal':>9}  unit", flush=True)

    def pairs(self, figure, unit, pairs, goal=None, method=""):
        """A figure by pairs of (ours, peer's), taken in turns, of which ours is to be `goal` times the peer's."""
        ratios = [ours / peer for ours, peer in pairs]
        ours, peer = (statistics.median(side) for side in zip(*pairs))
        ratio = statistics.median(ratios)
        self._line(figure, unit, ours, goal is None or ratio >= goal, peer, ratio, min(ratios), goal, "x", method)

    def alone(self, figure, unit, ours, at_least=None, at_most=None, method=""):
        """A figure that no peer has."""
        holds = (at_least is None or ours >= at_least) and (at_most is None or ours <= at_most)
        goal = at_least if at_least is not None else at_most
        self._line(figure, unit, ours, holds, None, None, None, goal, "", method)

    def said(self, figure, holds, text):
        """Something that holds or does not."""
        self._line(figure, text, None, holds, None, None, None, None, "", "")

    def left_out(self, figure, why):
        print(f"{figure:<58} left out: {why}", flush=True)
        self._add({"figure": figure, "leftOut": why})

    def broken(self, figure, error):
        print(f"{figure:<58} BROKEN: {error}", flush=True)
        self._add({"figure": figure, "holds": False, "error": f"{type(error).__name__}: {error}"})

    def took(self, name, seconds):
        self.result["seconds"][name] = round(seconds, 1)
        self._write()

    def exit_code(self):
        return 0 if all(line.get("holds", True) for line in self.result["lines"]) else 1

    def _line(self, figure, unit, ours, holds, peer, ratio, worst, goal, times, method):
        shown = lambda value, form: "-" if value is None else format(value, form)
        goal_shown = "-" if goal is None else f"{goal:g} {times}".strip()
        mark = "" if holds else "  MISSED"
        print(
            f"{figure:<58} {shown(ours, '.4g'):>10} {shown(peer, '.4g'):>10} {shown(ratio, '.3f'):>7} "
            f"{shown(worst, '.3f'):>7} {goal_shown:>9}  {unit}{mark}",
            flush=True,
        )
        self._add({
            "figure": figure, "ours": ours, "peer": peer, "ratio": ratio, "worst": worst, "goal": goal, "holds": holds,
            "unit": unit, "method": method,
        })

    def _add(self, line):
        self.result["lines"].append(line)
        self._write()

    def _write(self):
        self.path.write_text(json.dumps(self.result, indent=1) + "\n")
