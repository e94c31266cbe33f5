#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Draws the plots of docs/performance.md from the figures of benchmarks/run.sh, with gnuplot.

    benchmarks/plot.py FIGURES.json FOLDER
"""

import json
import pathlib
import re
import subprocess
import sys

HEADER = """
set terminal svg size 720,400 font 'sans-serif,13' background rgb 'white'
set key below
set grid
set style data linespoints
"""


def block(points):
    """Gnuplot's inline data."""
    return "".join(f"{x} {y}\n" for x, y in sorted(points)) + "e\n"


def draw(path, settings, lines):
    plots = ", ".join(f"'-' title '{title}' lw 2" for title, _ in lines)
    script = HEADER + f"set output '{path}'\n{settings}\nplot {plots}\n"
    script += "".join(block(points) for _, points in lines)
    subprocess.run(["gnuplot"], input=script, text=True, check=True)
    print(f"drew {path}")


def points_of(figures, pattern):
    """(number in the name, value) of all figures whose name matches."""
    found = []
    for name, value in figures.items():
        match = re.fullmatch(pattern, name)
        if match:
            found.append((int(match.group(1)), value))
    if len(found) < 2:
        sys.exit(f"plot.py: too few figures match {pattern}")
    return found


def by_size(figures, kind):
    points = [(kib / 1024, us) for kib, us in points_of(figures, kind + r"_(\d+)kib_us")]
    return points + [(1024, figures[kind + "_1gib_us"])]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    figures = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = pathlib.Path(sys.argv[2])

    draw(folder / "descriptors.svg",
         "set xlabel 'descriptors in a call'\nset ylabel 'extra time, microseconds'\n"
         "set logscale xy",
         [("grpcfd", points_of(figures, r"extra_(\d+)fd_us")),
          ("by hand over gRPC, named", points_of(figures, r"named_extra_(\d+)fd_us")),
          ("raw SCM\\_RIGHTS", points_of(figures, r"raw_extra_(\d+)fd_us")),
          ("sd-bus", points_of(figures, r"sdbus_extra_(\d+)fd_us")),
          ("Cap''n Proto", points_of(figures, r"capnp_extra_(\d+)fd_us"))])

    draw(folder / "payload.svg",
         "set xlabel 'payload, MiB'\nset ylabel 'until it is read, microseconds'\nset logscale xy",
         [("streamed over gRPC", by_size(figures, "stream")),
          ("fresh memfd: filled, handed over, read", by_size(figures, "memfd_fill_read")),
          ("shared memfd: handed over, read", by_size(figures, "memfd_read_populated")),
          ("shared memfd: handed over", by_size(figures, "memfd"))])

    threads = [("with one descriptor", "throughput_1fd"), ("without", "throughput_plain")]
    draw(folder / "throughput.svg",
         "set xlabel 'client threads'\nset ylabel 'calls a second'\nset yrange [0:*]",
         [(title, points_of(figures, name + r"_(\d+)threads") + [(8, figures[name])])
          for title, name in threads])


if __name__ == "__main__":
    main()
