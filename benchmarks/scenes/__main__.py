"""Trains and measures the ImageNet CGN on a reduced problem with a known answer.

    python -m benchmarks.scenes OUT

Draws a sheet of the scenes and trains the judges, the prior (a reduced BigGAN), the saliency
network (a reduced U2-Net), a CGN for each row of the ablation, an ensemble on the counterfactuals
of the CGN with all losses, and another on real images alone. Each has a folder in OUT, which a
later call continues or leaves as it is; OUT/reduced_imagenet.json holds the numbers of everything
complete.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.scenes.prior import ReducedPriorConfig
from benchmarks.scenes.run import ROWS, SMOKE, STEPS, Plan, run
from benchmarks.scenes.saliency import ReducedSaliencyConfig
from cgn_augment import CGNError


def main() -> None:
    """Takes the steps that are asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scenes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=())
    parser.add_argument("--prior-steps", type=int, default=ReducedPriorConfig.num_steps)
    parser.add_argument("--saliency-steps", type=int, default=ReducedSaliencyConfig.num_steps)
    parser.add_argument("--cgn-steps", type=int, default=Plan().cgn_steps)
    parser.add_argument(
        "--smoke", action="store_true", help="as small as can be; its numbers mean nothing"
    )
    arguments = parser.parse_args()
    plan = Plan(
        prior=ReducedPriorConfig(num_steps=arguments.prior_steps),
        saliency=ReducedSaliencyConfig(num_steps=arguments.saliency_steps),
        cgn_steps=arguments.cgn_steps,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    run(SMOKE if arguments.smoke else plan, arguments.out, arguments.steps, arguments.rows)


if __name__ == "__main__":
    try:
        main()
    except (CGNError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
