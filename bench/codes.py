"""What `--embeddings binary` loses, measured on an archive's own vectors.

songsight annotate … --out annotated --embeddings        # float16
python bench/codes.py annotated [gallery]                 # the run's own gallery if not given
"""

from __future__ import annotations

import sys

import numpy as np

from inference.annotate import source as sources
from inference.match import codes, embeddings, gallery
from inference.match.matching import Matcher
from songsight.store import urls

AT = (1, 3, 10, 30)


def main() -> None:
    """Prints the table."""
    source = sources.read(sys.argv[1] if len(sys.argv) > 1 else "annotated", "annotated")
    shown = gallery.read(sys.argv[2] if len(sys.argv) > 2 else source.record.gallery)
    width = source.encoder["width"]
    groups = embeddings.groups(urls.join(source.url, "embeddings"))
    vectors = np.concatenate([embeddings.vectors(embeddings.read(group), width) for group in groups])
    matcher = Matcher(shown, 1)
    coded = codes.decode(*codes.encode(vectors), width)
    error = (coded - vectors) @ matcher.vectors_ND.T
    print(f"{len(vectors)} windows of width {width}, {len(matcher.vectors_ND)} photographs")
    print(f"bytes a window: {2 * width} as float16, {-(-width // 8) + 4} as sign code")
    print(f"error of a code's cosine: mean {error.mean():+.4f}, standard deviation {error.std():.4f}")
    print()
    print("| found among codes | share |")
    print("|---|---|")
    for k in AT:
        shares = codes.kept(vectors, matcher, k).shares()
        if k == 1:
            print(f"| the same best species | {shares['same_best_species']:.3f} |")
        print(f"| of the {k} most similar photographs | {shares['recall_of_images']:.3f} |")


if __name__ == "__main__":
    main()
