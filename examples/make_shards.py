"""Renders a set of counterfactual shards on every core of this machine, and checks it.

    python examples/make_shards.py runs/shards --num 20000

The same command continues after an interruption. On a cluster, start `cgn-augment shards` instead,
with torchrun or as the tasks of an array with --rank and --world-size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from pathlib import Path

from cgn_augment import CGNError, load_cgn
from cgn_augment.shards import ShardConfig, render_shards, verify_shards


def render(arguments: argparse.Namespace, rank: int) -> None:
    config = ShardConfig(
        num=arguments.num,
        seed=arguments.seed,
        format=arguments.format,
        shard_size=arguments.shard_size,
    )
    render_shards(
        load_cgn(arguments.cgn),
        arguments.out,
        config,
        rank=rank,
        world_size=arguments.processes,
        resume=True,
        progress=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of the set")
    parser.add_argument("--cgn", default="double-colored-mnist", help="name or path of a CGN")
    parser.add_argument("--num", type=int, default=20_000, help="images (default: 20000)")
    parser.add_argument("--shard-size", type=int, default=1_000, help="images per shard")
    parser.add_argument("--format", default="png", help="png, jpg, webp or npy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one a core")
    arguments = parser.parse_args()
    load_cgn(arguments.cgn)  # report an error once, not in every process

    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=render, args=(arguments, rank))
        for rank in range(1, arguments.processes)
    ]
    for process in ranks:
        process.start()
    try:
        render(arguments, rank=0)
    finally:
        for process in ranks:
            process.join()
    problems = verify_shards(arguments.out)
    for problem in problems:
        print(problem)
    print(f"{arguments.out}: {len(problems)} problems")
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
