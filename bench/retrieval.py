"""What ranking a large gallery costs: queries in blocks, against the whole matrix of scores at once.

    python bench/retrieval.py                                # 50,000 queries × 30,000 images of width 768
    python bench/retrieval.py --queries 4000 --whole         # and the same by argsort of all scores

Prints seconds and the process's peak resident memory, vectors and PyTorch included.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from songsight.metrics import retrieval, unit


def peak_gb() -> float:
    """The most memory that this process has held, in GB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def vectors(rng: np.random.Generator, centres_SD: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Unit vectors around their species' centre, float32 [n, width]."""
    noise_ND = rng.standard_normal((len(labels_N), centres_SD.shape[1]), dtype=np.float32)
    return unit(centres_SD[labels_N] + 3 * noise_ND).astype(np.float32)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=50_000)
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--species", type=int, default=1500)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--whole", action="store_true", help="also rank the whole matrix at once, and compare")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    centres_SD = rng.standard_normal((options.species, options.width), dtype=np.float32)
    asks = rng.integers(0, options.species, options.queries)
    holds = rng.integers(0, options.species, options.images)
    queries, images = vectors(rng, centres_SD, asks), vectors(rng, centres_SD, holds)
    device = retrieval._device()
    print(f"{options.queries:,} queries × {options.images:,} images of width {options.width}, on {device}")

    begin = time.perf_counter()
    found = retrieval.retrieve(queries, images, asks, holds, nearest=5)
    seconds = time.perf_counter() - begin
    print(
        f"in blocks: {seconds:.1f} s, {options.queries / seconds:,.0f} queries/s, peak {peak_gb():.2f} GB, "
        f"mAP {np.nanmean(found.average_precision):.6f}"
    )
    if options.whole:
        begin = time.perf_counter()
        whole = retrieval.average_precision(queries @ images.T, asks[:, None] == holds[None, :])
        apart = np.nanmax(np.abs(whole - found.average_precision))
        print(
            f"whole matrix: {time.perf_counter() - begin:.1f} s, peak {peak_gb():.2f} GB, "
            f"mAP {np.nanmean(whole):.6f}, a query's AP differs by {apart:.1e} at most"
        )


if __name__ == "__main__":
    main()
