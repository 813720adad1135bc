"""What a claim asks to be drawn, and how it fits a bundle. Nothing in it is believed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from icgan_runtime.chain import LocalChain
from icgan_runtime.errors import RequestError
from icgan_runtime.marks.claim import Claim, embedding_hash
from icgan_runtime.origin import recover
from icgan_runtime.rows import CONDITIONS, OWN_LABEL, Latents, Rows
from icgan_runtime.steer.space import mixed

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


def source_notes(claim: Claim, chain: LocalChain, embeddings: F32) -> list[str]:
    """What a claim says of its source that does not fit this bundle, for queries [M, D]."""
    here, notes = chain.source, []
    if claim.source.identity != here.identity:
        notes.append(f"it claims another model: {claim.source.name} {claim.source.version}")
    elif claim.source.generator not in (None, here.generator):
        notes.append("it claims another generator file of this model (another precision, or other weights)")
    other = claim.source.bank not in (None, here.bank) or claim.source.state != here.state
    if claim.condition != "query" and other:
        state = claim.source.state or "as exported"
        notes.append(f"it claims another bank of instances, or another state of this one: {state}")
    hashes = {embedding_hash(row) for row in embeddings}
    if claim.embedding_sha256 not in (None, *hashes):
        notes.append("the hash of its embedding is not that of what was given (another encoder or backend?)")
    return notes


def settings_of(claim: Claim, chain: LocalChain) -> recover.Candidates:
    """Seed, samples and what all of them share."""
    return recover.Candidates(
        range(claim.seed, claim.seed + 1),
        range(claim.first, claim.first + claim.n),
        math.inf if claim.truncation is None else claim.truncation,
        claim.condition,
        OWN_LABEL if claim.label is None or not chain.model.classes else claim.label,
    )


def pairs_of(claim: Claim, settings: recover.Candidates) -> tuple[I64, I64]:
    """Seeds and samples [n] of the claimed images."""
    if claim.samples is None:
        return settings.pairs()
    return np.full(claim.n, claim.seed, np.int64), np.array(claim.samples, np.int64)


def drawn_of(claim: Claim, chain: LocalChain) -> Latents:
    """What images were drawn from that claim an instance of the prior each.

    Raises RequestError where this bundle has no prior.
    """
    if chain.prior is None:
        raise RequestError("picture", "it follows an instance that a prior drew, and this bundle has none")
    settings = settings_of(claim, chain)
    seeds, samples = pairs_of(claim, settings)
    rows = Rows(
        seeds,
        samples,
        np.full(len(seeds), settings.truncation, np.float32),
        np.full(len(seeds), CONDITIONS.index(claim.condition), np.int32),
        np.full(len(seeds), settings.label, np.int64) if chain.model.classes else None,
    )
    embedding, rows = chain.draw_instances(rows)
    ids, _ = chain.search(embedding, chain.neighbours)
    followed = rows.conditioning(embedding, ids, chain.bank)
    return Latents(rows.noise(chain.model), followed, rows.label, rows.truncation)


def latents_of(claim: Claim, chain: LocalChain, embeddings: F32) -> Latents | None:
    """What a claim has that names noise instead of a seed, for queries [M, D]; None for other claims.

    Raises RequestError where the claim's mixture is of another number of pictures, None for noise that is not
    this model's.
    """
    if claim.latents is None:
        return None
    noise = np.array([latent.noise for latent in claim.latents], np.float32)
    weights = np.array([latent.weights for latent in claim.latents], np.float32)
    if weights.shape[1] != len(embeddings):
        count = weights.shape[1]
        raise RequestError(
            "picture", f"this one follows a mixture of {count}: give as many pictures, in their order"
        )
    settings = settings_of(claim, chain)
    return mixed(chain.model, embeddings, noise, weights, settings.truncation, settings.label)
