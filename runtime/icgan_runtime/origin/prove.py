"""Proof by drawing again: is this picture what the bundle draws from that instance and seed?

    proved                a drawing is the picture, no channel of any pixel more than one grey level apart
    match                 a drawing is so like the picture that chance has less than one in a million
    not from this bundle  neither, for every candidate that was tried

The claim in the file says which drawing to try; where it was cut out, or lies, the candidates are searched.
Nothing in the file is believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import images
from icgan_runtime.chain import LocalChain
from icgan_runtime.errors import RequestError
from icgan_runtime.marks.claim import Claim
from icgan_runtime.marks.mark import Marks
from icgan_runtime.origin import chance, recover
from icgan_runtime.origin.claimed import drawn_of, latents_of, pairs_of, settings_of, source_notes
from icgan_runtime.origin.likeness import (
    COARSE,
    FINE,
    WHOLE,
    Band,
    View,
    features,
    fine_sides,
    grey,
    refine,
    unit,
    views,
)
from icgan_runtime.origin.sheets import cut

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

PROVED, MATCH, NOT = "proved", "match", "not from this bundle"
FALSE_MATCH = 1e-6
NULL_PICTURES = 256
_NULL_SEED = 1 << 62  # seeds that nobody asks for by hand
_PROMISING = 0.8  # cosine of fingerprints from which a search looks closer before it goes on
TOLERANCE = 1  # grey levels
OBLONG = 1.2  # of its sides, from which a picture is hardly a crop of a square one
BANDS = (FINE, COARSE)  # in which pictures are judged; what halves a small one leaves little of the first
DAMPING = 0.3  # of the whitening, in mean variances: edits move the quiet directions, too


@dataclass(frozen=True)
class Drawing:
    """A drawing beside the picture it was compared with."""

    picture: U8  # [R, R, 3], as found, mirrored back and cut like the drawing
    drawn: U8  # [R, R, 3]
    difference: int  # largest, in grey levels
    cosine: float  # of their band features, the instance's mean taken off
    chance: float  # at most so likely for unrelated pictures, all candidates counted


@dataclass(frozen=True)
class Verdict:
    """What was found, and what it rests on."""

    verdict: str  # PROVED, MATCH or NOT
    how: str  # "claim" or "search"
    seed: int | None = None
    sample: int | None = None
    instance: int | None = None  # id of a stored instance, where the bank was searched
    edit: str = "none"
    tried: int = 0  # candidates
    drawings: tuple[Drawing, ...] = ()
    notes: tuple[str, ...] = ()
    marks: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything but the pixels."""
        worst = max(self.drawings, key=lambda drawing: drawing.chance, default=None)
        return {
            "verdict": self.verdict,
            "how": self.how,
            "seed": self.seed,
            "sample": self.sample,
            "instance": self.instance,
            "edit": self.edit,
            "pictures": len(self.drawings),
            "largest_difference": max((drawing.difference for drawing in self.drawings), default=None),
            "cosine": None if worst is None else round(worst.cosine, 4),
            "false_match_probability": None if worst is None else worst.chance,
            "tried": self.tried,
            "notes": list(self.notes),
            "marks": self.marks,
        }


@dataclass(frozen=True)
class Queries:
    """Whose pictures are looked for: query embeddings [I, D], and the ids of those that are stored."""

    embeddings: F32
    ids: tuple[int, ...] | None = None


Progress = Callable[[int, int, int], None]


def prove(
    data: bytes,
    marks: Marks,
    chain: LocalChain,
    queries: Queries | None,
    settings: recover.Candidates,
    index: Path | None = None,
    progress: Progress = lambda done, of, drawn: None,
    judges: dict[bytes, Judge] | None = None,
) -> Verdict:
    """Whether the picture file `data` is a drawing of this chain's bundle.

    `queries` None: the claim must hold the embedding. `judges`: kept from one picture to the next of the same
    chain and settings, spares drawing the strangers of an instance again. Raises RequestError where neither
    is there, DecodeError for a file that is no picture.
    """
    picture = images.pixels(data)
    claim, notes = marks.claim, list(marks.notes)
    if queries is None and claim is not None and claim.prior:
        queries = Queries(drawn_of(claim, chain).embedding)
    if queries is None:
        if claim is None or claim.embedding is None:
            raise RequestError(
                "picture", "the file does not hold the embedding: give --picture, --embedding or --bank"
            )
        queries = Queries(np.array([claim.embedding], np.float32))
    if queries.embeddings.shape[1] != chain.model.embedding_dim:
        width = queries.embeddings.shape[1]
        raise RequestError("embedding", f"{width} wide, this bundle's are {chain.model.embedding_dim}")
    if claim is not None:
        notes += source_notes(claim, chain, queries.embeddings)
        found = check_claim(picture, claim, chain, queries)
        if found is not None:
            return _with(found, [*notes, *found.notes], marks)
        what = f"seed {claim.seed}, sample {claim.first}" if claim.latents is None else "the noise it names"
        notes.append(f"the claim is false for what was given: {what} does not draw this picture")
        if claim.n * claim.sheet.strips > 1:
            notes.append("it claims to be a sheet: if it is, cut one image out")
    height, width = picture.shape[:2]
    if max(height, width) > OBLONG * min(height, width):
        notes.append(
            f"{width} x {height} pixels, and this model draws squares: if it is a sheet, or has an edge, cut "
            "one image out"
        )
    return _with(find(picture, chain, queries, settings, index, progress, judges), notes, marks)


def _with(verdict: Verdict, notes: list[str], marks: Marks) -> Verdict:
    return replace(verdict, notes=tuple(notes), marks=marks.to_json())


def check_claim(picture: U8, claim: Claim, chain: LocalChain, queries: Queries) -> Verdict | None:
    """The verdict if what is claimed draws the picture, for any of the query embeddings; else None."""
    settings = settings_of(claim, chain)
    cells = cut(picture, claim, chain.model.resolution)
    if cells is None:
        return None
    if claim.prior or claim.latents is not None:
        return _check_latents(cells[0], claim, chain, queries.embeddings)
    strips, pairs = claim.sheet.strips, pairs_of(claim, settings)
    if len(queries.embeddings) % strips:
        raise RequestError("picture", f"this sheet follows {strips} pictures: give as many, in their order")
    for start in _likeliest(cells[0][:1], chain, queries.embeddings[::strips], settings):
        drawings: list[Drawing] = []
        for strip in range(strips):
            embedding = queries.embeddings[start * strips + strip]

            def again(some: slice, embedding: F32 = embedding) -> U8:
                seeds, samples = (each[some] for each in pairs)
                return recover.draw(chain, embedding, settings, seeds, samples)

            drawings += _compare(cells[strip], chain, embedding, settings, again)
            if judge(drawings) == NOT:
                break
        verdict = judge(drawings)
        if verdict != NOT:
            instance = None if queries.ids is None else queries.ids[start * strips]
            return Verdict(
                verdict, "claim", claim.seed, claim.first, instance, tried=1, drawings=tuple(drawings)
            )
    return None


def _likeliest(cell: U8, chain: LocalChain, embeddings: F32, settings: recover.Candidates) -> list[int]:
    """Whose first drawing is most like the first cell [1, R, R, 3]: a whole bank is not judged one by one."""
    if len(embeddings) <= recover.KEPT:
        return list(range(len(embeddings)))
    seeds, samples = (pair[:1] for pair in settings.pairs())
    drawn = np.concatenate([recover.draw(chain, each, settings, seeds, samples) for each in embeddings])
    seen = np.concatenate([features(grey(cell), COARSE, view) for view in views()])
    likeness = (seen @ features(grey(drawn), COARSE).T).max(axis=0)
    return [int(row) for row in np.argsort(-likeness, kind="stable")[: recover.KEPT]]


def _check_latents(cells: U8, claim: Claim, chain: LocalChain, embeddings: F32) -> Verdict | None:
    """As `check_claim`, of images [n, R, R, 3] of an instance each, or whose noise the file names."""
    latents = drawn_of(claim, chain) if claim.prior else latents_of(claim, chain, embeddings)
    if latents is None or latents.noise.shape[1] != chain.model.dim_z:
        return None
    drawings = _compare(
        cells,
        chain,
        latents.embedding[0],
        settings_of(claim, chain),
        lambda some: chain.draw_latents(latents.part(some)),
    )
    verdict = judge(drawings)
    notes = ("drawn from the noise that the file names, which no seed gives",)
    found = Verdict(verdict, "claimed noise", tried=1, drawings=tuple(drawings), notes=notes)
    if claim.prior:
        notes = ("it follows an instance that seed and sample draw from the bundle's prior",)
        found = replace(found, how="claim", seed=claim.seed, sample=claim.first, notes=notes)
    return None if verdict == NOT else found


def _compare(
    cells: U8,
    chain: LocalChain,
    embedding: F32,
    settings: recover.Candidates,
    again: Callable[[slice], U8],
) -> list[Drawing]:
    """Cells of a file [n, R, R, 3] beside the drawings of their claim, up to the first that is not alike.

    A claim may speak of thousands, and lie. `again` draws some of them, `settings` those of strangers.
    """
    judge_one: Judge | None = None
    drawings: list[Drawing] = []
    for first in range(0, len(cells), chain.max_batch):
        some = slice(first, first + chain.max_batch)
        for cell, drawn in zip(cells[some], again(some), strict=True):
            difference = int(np.abs(cell.astype(np.int16) - drawn.astype(np.int16)).max())
            if difference <= TOLERANCE:
                drawings.append(Drawing(cell, drawn, difference, 1.0, 0.0))
                continue
            judge_one = judge_one or Judge(chain, embedding, settings)
            drawings.append(judge_one.best(cell, drawn, tried=1))
            if drawings[-1].chance > FALSE_MATCH:
                return drawings
    return drawings


def judge(drawings: list[Drawing]) -> str:
    """One word for all pictures of a file."""
    if not drawings:
        return NOT
    if all(drawing.difference <= TOLERANCE for drawing in drawings):
        return PROVED
    return MATCH if all(drawing.chance <= FALSE_MATCH for drawing in drawings) else NOT


def find(
    picture: U8,
    chain: LocalChain,
    queries: Queries,
    settings: recover.Candidates,
    index: Path | None,
    progress: Progress,
    judges: dict[bytes, Judge] | None = None,
) -> Verdict:
    """Search the candidates for a picture; those most like it are drawn again."""
    # An instance's own pictures come near it in the encoder's eyes: those first.
    seen = chain.embed([picture])[0]
    order = np.argsort(-(queries.embeddings @ seen), kind="stable")
    embeddings = queries.embeddings[order]
    tried = len(embeddings) * settings.count
    judges = {} if judges is None else judges
    verdicts: dict[recover.Candidate, Drawing] = {}

    def look(candidate: recover.Candidate) -> Drawing:
        if candidate not in verdicts:
            row = candidate.instance
            name = embeddings[row].tobytes()
            if name not in judges:
                judges[name] = Judge(chain, embeddings[row], settings)
            pair = (np.array([candidate.seed]), np.array([candidate.sample]))
            drawn = recover.draw(chain, embeddings[row], settings, *pair)[0]
            shown = np.ascontiguousarray(picture[:, ::-1]) if candidate.mirrored else picture
            cell = images.resize(shown, chain.model.resolution)
            verdicts[candidate] = judges[name].best(cell, drawn, 2 * tried, candidate.view)
        return verdicts[candidate]

    def enough(candidate: recover.Candidate) -> bool:
        return candidate.cosine >= _PROMISING and look(candidate).chance <= FALSE_MATCH

    best = recover.search(picture, embeddings, recover.Index(chain, settings, index), enough, progress)
    candidate = min(best[:4], key=lambda each: look(each).chance)
    if look(candidate).chance <= FALSE_MATCH:
        twin = _likest_twin(picture, candidate, chain, embeddings, settings)
        candidate = min((twin, candidate), key=lambda each: look(each).chance > FALSE_MATCH)
    drawing = look(candidate)
    verdict = judge([drawing])
    if candidate.view != WHOLE or candidate.mirrored or len(picture) != chain.model.resolution:
        verdict = MATCH if verdict == PROVED else verdict
    if verdict == NOT:
        return Verdict(NOT, "search", tried=tried, drawings=(drawing,))
    instance = None if queries.ids is None else queries.ids[int(order[candidate.instance])]
    edit = "mirrored " * candidate.mirrored + ("" if candidate.view == WHOLE else "cropped")
    return Verdict(
        verdict,
        "search",
        candidate.seed,
        candidate.sample,
        instance,
        edit.strip() or "none",
        tried,
        (drawing,),
    )


def _likest_twin(
    picture: U8,
    candidate: recover.Candidate,
    chain: LocalChain,
    embeddings: F32,
    settings: recover.Candidates,
) -> recover.Candidate:
    """The same seed and sample, of whichever instance near the candidate's draws it most like the picture.

    Instances that are much alike draw much alike, and the search stops at the first that is a match.
    """
    near = np.argsort(-(embeddings @ embeddings[candidate.instance]), kind="stable")[: recover.KEPT]
    pair = (np.array([candidate.seed]), np.array([candidate.sample]))
    drawn = np.concatenate([recover.draw(chain, embeddings[row], settings, *pair) for row in near])
    shown = np.ascontiguousarray(picture[:, ::-1]) if candidate.mirrored else picture
    cell = grey(images.resize(shown, chain.model.resolution)[None])
    view = WHOLE if candidate.view == WHOLE else refine(cell, grey(drawn[:1]), candidate.view)
    likeness = features(grey(view.crop(drawn)), FINE) @ features(cell, FINE)[0]
    return replace(candidate, instance=int(near[likeness.argmax()]))


class Judge:
    """Compares pictures with drawings of one instance, against pictures of the same instance by chance.

    Such pictures differ in few ways (their features' covariance is far from round), so the features are
    whitened by it: what is left is alike only where the noise was the same.
    """

    def __init__(self, chain: LocalChain, embedding: F32, settings: recover.Candidates) -> None:
        # seeds that depend on the instance alone: the same question has the same answer
        start = _NULL_SEED + int.from_bytes(hashlib.sha256(embedding.tobytes()).digest()[:5], "big")
        seeds = np.arange(start, start + NULL_PICTURES, dtype=np.int64)
        self._others = recover.draw(chain, embedding, settings, seeds, np.zeros_like(seeds))
        self._fitted: dict[tuple[View, Band], tuple[F32, F32, chance.Null]] = {}

    def at(self, picture: U8, drawn: U8, view: View, tried: int) -> Drawing:
        """A picture [R, R, 3] that may be this view of a drawing [R, R, 3]."""
        drawn = view.crop(drawn[None])[0]
        difference = np.abs(picture.astype(np.int16) - drawn.astype(np.int16)).max()
        grids, found = grey(np.stack([picture, drawn])), []
        for band in BANDS:
            mean, whitening, null = self.null(view, band)
            rows = unit((features(grids, band) - mean) @ whitening)
            cosine = float(rows[0] @ rows[1])
            found.append((null.probability(cosine, tried * len(BANDS)), cosine))
        likeliest, cosine = min(found, key=lambda each: each[0])
        return Drawing(picture, drawn, int(difference), cosine, likeliest)

    def best(self, picture: U8, drawn: U8, tried: int, hint: View | None = None) -> Drawing:
        """As `at`, for the whole and, where that is no match, for the likeliest crop near `hint`.

        The whole is one guess in two; all crops share the other.
        """
        whole = self.at(picture, drawn, WHOLE, 2 * tried)
        if whole.chance <= FALSE_MATCH:
            return whole
        grid, target = grey(picture[None]), grey(drawn[None])
        view = refine(grid, target, hint)
        # so many crops were possible
        cropped = self.at(picture, drawn, view, 2 * tried * len(fine_sides()) ** 2)
        return min(whole, cropped, key=lambda each: each.chance)

    def null(self, view: View, band: Band) -> tuple[F32, F32, chance.Null]:
        """Mean and whitening of the features of strangers, and how alike strangers are then."""
        if (view, band) not in self._fitted:
            rows = features(grey(view.crop(self._others)), band)
            # one half says how to whiten, the other how alike strangers are then
            told, held = rows[::2], rows[1::2]
            mean = told.mean(axis=0)
            spread, directions = np.linalg.eigh((told - mean).T @ (told - mean) / len(told))
            whitening = directions / np.sqrt(np.maximum(spread, 0) + DAMPING * spread.mean())
            strangers = unit((held - mean) @ whitening)
            pairs = np.triu_indices(len(held), 1)
            self._fitted[view, band] = mean, whitening, chance.fit((strangers @ strangers.T)[pairs])
        return self._fitted[view, band]
