"""A journal of decisions, decided again: do the recorded policies still say what they said, and what would others?

A row keeps the columns of up to 16 candidates: the winner, the best and a sample. A policy whose score is a function
of a node's columns can be asked about those again, and one that looks at all candidates together where all were kept.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from nodewise.channel.messages import DecisionRow
from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise.policies import LEARNED, bundle_folder
from nodewise.policies.economic import ECONOMIC, TERMS
from nodewise_simulator.run import resolve

CLOSE = 1e-4
"""Relative to the spread of the scores of a row: float32 sums differ by less between machines."""


@dataclass(frozen=True, slots=True)
class Differing:
    """A decision that the policy would have taken otherwise."""

    time_s: float
    pod: str
    """NAMESPACE/NAME"""
    winner: str
    """As recorded."""
    best: str
    """Its best of the candidates that were kept."""


@dataclass(slots=True)
class Replayed:
    """What one policy said of the rows of a journal."""

    policy: str
    digest: str
    rows: int = 0
    """Decisions of the journal."""
    asked: int = 0
    """Those that kept what the policy looks at."""
    own: int = 0
    """Of these, decided by the very same policy, by digest."""
    same_scores: int = 0
    """Of its own, those whose recorded scores came out again."""
    same_winner: int = 0
    """Of all asked, those whose recorded winner is its best of the candidates that were kept."""
    differing: list[Differing] = field(default_factory=list)
    """The others. Its best of all candidates may be one that was not kept, so that these are the least."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that it could not be asked about, by reason."""


Scorer = Callable[[Mapping[str, Floats]], Floats]


@dataclass(frozen=True, slots=True)
class Asked:
    """A policy as a function of columns."""

    name: str
    digest: str
    columns: tuple[str, ...]
    score: Scorer
    together: bool
    """Whether the score of a node depends on what the other candidates are."""


def replay(path: Path, policy: str, bundle: Path | None = None) -> Replayed:
    """Ask `policy` again about every row of a journal (`nodewise extender --journal`), compressed or not.

    Raises UserError for a file that is no journal, and a policy whose score is not a function of columns.
    """
    asked = _asked(policy, bundle)
    made = Replayed(asked.name, asked.digest)
    for row in rows(path):
        made.rows += 1
        if not row.featured:
            made.left_out["no opinion" if row.neutral else "no features kept"] += 1
            continue
        if asked.together and len(row.featured) < len(row.candidates):
            made.left_out["with more candidates than a journal keeps, which this policy looks at together"] += 1
            continue
        if missing := set(asked.columns) - set(row.columns):
            made.left_out[f"without column {min(missing)}"] += 1
            continue
        seen = np.frombuffer(row.features, "<f4").reshape(len(row.featured), len(row.columns)).astype(float)
        scores = np.asarray(asked.score({name: seen[:, k] for k, name in enumerate(row.columns)}), float)
        recorded = np.array([row.scores[k] for k in row.featured])
        made.asked += 1
        if scores[0] >= scores.max() - CLOSE * max(float(np.ptp(scores)), 1e-9):
            made.same_winner += 1
        else:
            best = row.candidates[row.featured[int(scores.argmax())]]
            made.differing.append(Differing(row.time_s, f"{row.namespace}/{row.pod}", row.winner, best))
        if row.digest == asked.digest and not row.fallback:
            made.own += 1
            scale = max(float(np.ptp(recorded)), float(np.abs(recorded).max()) * 1e-3, 1e-9)
            made.same_scores += bool((np.abs(scores - recorded) <= CLOSE * scale).all())
    return made


def rows(path: Path) -> Iterator[DecisionRow]:
    """The decisions of a journal, in order. Raises UserError naming the line that is none; a cut last line is not."""
    decode = msgspec.json.Decoder(DecisionRow).decode
    whole = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):  # the last may be cut: the extender was killed as it wrote
                    yield _checked(decode(line))
                    whole += 1
    except OSError as error:
        raise UserError(f"the journal {path} cannot be read ({error.strerror or error}): name another file") from error
    except (msgspec.DecodeError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"line {whole + 1} of {path} is no row of a journal ({error}): name another file") from error
    if not whole:
        raise UserError(f"the journal {path} is empty: let the extender decide something first")


def _checked(row: DecisionRow) -> DecisionRow:
    """The row, if its parts fit together; raises ValueError."""
    if len(row.scores) != len(row.candidates) or not all(0 <= k < len(row.candidates) for k in row.featured):
        raise ValueError("its candidates, scores and featured candidates are not as many")
    if len(row.features) != 4 * len(row.featured) * len(row.columns):
        raise ValueError("its features are not one of each column for each featured candidate")
    return row


def _asked(policy: str, bundle: Path | None) -> Asked:
    if bundle is not None and policy != LEARNED:
        raise UserError(
            f"--bundle {bundle} is for policy {LEARNED!r}, which is not asked for; ask for it, or leave it out"
        )
    if policy == ECONOMIC.name:
        return Asked(ECONOMIC.name, ECONOMIC.digest, TERMS, _economic, together=False)
    if policy == LEARNED or "/" in policy:
        from nodewise.policies.learned import load

        found = load(Path(policy) if "/" in policy else bundle_folder(bundle))
        names = found.card.column_names

        def score(seen: Mapping[str, Floats]) -> Floats:
            columns = np.column_stack([seen[name] for name in names]).astype(np.float32)
            return np.asarray(found.run(columns), float)

        return Asked(found.name, found.digest, names, score, together=True)
    resolve(policy)  # which refuses one that there is not
    raise UserError(
        f"policy {policy!r} looks at more than a journal keeps; replay {ECONOMIC.name}, {LEARNED} or ./BUNDLE"
    )


def _economic(seen: Mapping[str, Floats]) -> Floats:
    return np.asarray(-np.sum([seen[name] for name in TERMS], axis=0))


def words(left_out: Mapping[str, int]) -> Sequence[str]:
    """Why rows were left out, most first."""
    return [f"{count:,} {why}" for why, count in sorted(left_out.items(), key=lambda item: -item[1])]
