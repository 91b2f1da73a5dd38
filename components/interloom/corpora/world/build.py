"""The whole world, from its seed."""

from interloom.corpora.world.documents import World, build_cloze_stories
from interloom.corpora.world.facts import build_facts


def build_world(*, seed: int, num_story_cloze: int, heldout_share: float) -> World:
    """Decide what is so and which stories are kept for cloze pairs."""
    facts = build_facts(seed)
    return World(
        seed=seed,
        facts=facts,
        cloze=build_cloze_stories(seed, facts, num_story_cloze),
        heldout_share=heldout_share,
    )
