"""The whole world, from its seed."""

from interloom.config.corpora import StarterWorld
from interloom.corpora.world.documents import World, build_cloze_stories
from interloom.corpora.world.facts import build_facts


def build_world(source: StarterWorld, *, seed: int, heldout_share: float) -> World:
    """Decide what is so and which stories are kept for cloze pairs."""
    facts = build_facts(seed, num_people=source.num_people, num_relations=source.num_relations)
    return World(
        seed=seed,
        facts=facts,
        cloze=build_cloze_stories(seed, facts, source.num_story_cloze),
        heldout_share=heldout_share,
        has_unseen_voices=source.has_unseen_voices,
        has_phrases=source.has_phrases,
    )
