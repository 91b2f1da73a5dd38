"""The closed world: its facts keep to their media, and its stories to their rules."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import pytest

from interloom.config.corpora import StarterWorld
from interloom.corpora.world.build import build_world
from interloom.corpora.world.dialogues import ask_rule, cloze, dialogues, endings, questions
from interloom.corpora.world.documents import World, fact_documents, story_documents
from interloom.corpora.world.draws import Draws, hashed_share
from interloom.corpora.world.facts import MEDIA, RELATIONS, Fact, Guard, Medium, build_facts
from interloom.corpora.world.lexicon import PEOPLE, words_of
from interloom.corpora.world.scripts import (
    SPEAKERS,
    UNSEEN_SPEAKERS,
    Script,
    is_stock,
    scripts,
)
from interloom.corpora.world.stories import (
    DIETS,
    HABITS,
    HOURS,
    RULES,
    STATES,
    WEATHER,
    Cast,
    draw_cast,
)

Texts = Mapping[Medium, list[str]]


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(StarterWorld(num_story_cloze=120), seed=0, heldout_share=0.08)


@pytest.fixture(scope="module")
def said(world: World) -> list[Script]:
    return list(islice(scripts(world), 1400))


@pytest.fixture(scope="module")
def stories(world: World) -> list[dict[str, Any]]:
    return list(story_documents(world, 600))


@pytest.fixture(scope="module")
def texts(world: World, said: list[Script], stories: list[dict[str, Any]]) -> Texts:
    """Everything that is told in each medium."""
    return {
        "written": [row["text"] for row in fact_documents(world, "written", 300)],
        "woven": [row["text"] for row in (*fact_documents(world, "woven", 300), *stories)],
        "spoken": [script.text for script in said],
    }


def phrases(text: str) -> set[str]:
    """All pairs of neighbouring words."""
    words = words_of(text)
    return {f"{one} {other}" for one, other in pairwise(words)}


def test_each_medium_has_a_third_of_each_relation(world: World) -> None:
    counts = Counter((fact.medium, fact.relation.name) for fact in world.facts)

    assert set(counts.values()) == {8}
    assert len(counts) == len(MEDIA) * len(RELATIONS)


@pytest.mark.parametrize("seed", range(12))
def test_even_a_few_dialogues_hold_one_out(seed: int) -> None:
    world = build_world(StarterWorld(num_story_cloze=1), seed=seed, heldout_share=0.08)

    rows = list(dialogues(world, 4))

    held_out = [row["split"] == "heldout" for row in rows]
    assert any(held_out)
    assert len(rows) == 4 or held_out == [False] * (len(rows) - 1) + [True]


def test_a_smaller_world_has_fewer_facts_and_the_same_rules() -> None:
    facts = build_facts(3, num_people=12, num_relations=2)

    counts = Counter((fact.medium, fact.relation.name) for fact in facts)
    assert set(counts.values()) == {4}
    assert {fact.relation.name for fact in facts} == {"pet", "home"}
    assert len({fact.person for fact in facts}) == 12
    assert len({fact.answer for fact in facts}) == 24


def test_no_fact_and_no_answer_is_in_two_media(world: World) -> None:
    assert len({fact.id for fact in world.facts}) == 96
    assert len({fact.answer for fact in world.facts}) == 96


def test_the_answers_of_one_person_share_no_word(world: World) -> None:
    for person in PEOPLE:
        words = [
            word for fact in world.facts if fact.person == person for word in fact.answer.split()
        ]
        assert len(set(words)) == len(words)


def test_another_seed_is_another_world() -> None:
    assert build_facts(0) == build_facts(0)
    assert build_facts(0) != build_facts(1)


@pytest.mark.parametrize("medium", MEDIA)
def test_the_answer_of_a_fact_is_told_in_its_medium_only(
    world: World, texts: Texts, medium: Medium
) -> None:
    elsewhere = {
        phrase
        for other in MEDIA
        if other != medium
        for text in texts[other]
        for phrase in phrases(text)
    }
    here = {phrase for text in texts[medium] for phrase in phrases(text)}
    answers = {fact.answer for fact in world.facts_of(medium)}

    assert answers <= here
    assert not answers & elsewhere


def test_no_speech_span_can_hold_the_answer_of_a_written_fact(
    world: World, texts: Texts, said: list[Script]
) -> None:
    """Speech is what is recorded, and what may be made of woven documents and of dialogues."""
    turns = [turn["text"] for row in dialogues(world, 400) for turn in row["turns"]]
    spoken = {
        phrase for text in (*texts["spoken"], *texts["woven"], *turns) for phrase in phrases(text)
    }

    assert [fact.id for fact in world.facts_of("written") if fact.answer in spoken] == []


@pytest.mark.parametrize("medium", MEDIA)
def test_no_text_that_names_a_person_has_a_word_of_their_answers_in_other_media(
    world: World, texts: Texts, medium: Medium
) -> None:
    others = [fact for fact in world.facts if fact.medium != medium]

    leaks = [
        (fact.id, text)
        for text in texts[medium]
        for words in [set(words_of(text))]
        for fact in others
        if fact.person in words and words & set(fact.answer.split())
    ]

    assert leaks == []


def test_dialogues_keep_quiet_about_written_facts(world: World) -> None:
    written = world.facts_of("written")
    for row in dialogues(world, 400):
        words = set(words_of(" ".join(turn["text"] for turn in row["turns"])))
        for fact in written:
            assert not (fact.person in words and words & set(fact.answer.split()))


def test_a_guard_tells_what_may_be_told() -> None:
    pet, home = RELATIONS[0], RELATIONS[1]
    facts = (
        Fact("tom-pet", "written", "tom", pet, "red fox"),
        Fact("tom-home", "woven", "tom", home, "big lake"),
    )

    guard = Guard(facts, ["woven"])

    assert guard.passes("tom lives by the big lake.")
    assert guard.passes("lucy has a red fox at home.")
    assert not guard.passes("the cat is red. tom likes lucy.")
    assert not guard.passes("what is a fox? tom sings.")


def test_phrases_join_the_words_of_answers_and_are_none(world: World) -> None:
    other = replace(world, has_phrases=True)
    spoken = {fact.answer for fact in world.facts_of("spoken")}
    unspoken = {fact.answer for fact in world.facts} - spoken
    describing = {word for relation in RELATIONS for word in relation.describing}
    nouns = {word for relation in RELATIONS for word in relation.nouns}

    heard = {pair for script in islice(scripts(other), 1400) for pair in phrases(script.text)}
    described = {pair for pair in heard if pair.split()[0] in describing}
    answers = {pair for pair in described if pair.split()[1] in nouns}

    assert not answers & unspoken
    assert len(answers - spoken) > 100


def test_every_answer_word_is_said_often_of_others(world: World, said: list[Script]) -> None:
    counts = Counter(
        word for script in said if script.split == "train" for word in words_of(script.text)
    )
    answers = {word for fact in world.facts for word in fact.answer.split()}

    assert min(counts[word] for word in answers) >= 10


def test_every_word_of_every_text_is_said_in_training(
    world: World, texts: Texts, said: list[Script]
) -> None:
    heard = {word for script in said if script.split == "train" for word in words_of(script.text)}
    turns = [turn["text"] for row in dialogues(world, 400) for turn in row["turns"]]
    pairs = [row[part] for row in cloze(world) for part in ("context", "right", "wrong")]
    others = [ending for row in endings(world) for ending in row["wrong"]]
    everything = (*texts["written"], *texts["woven"], *turns, *pairs, *others)

    assert {word for text in everything for word in words_of(text)} <= heard
    assert len(heard) <= 220


def test_four_endings_are_of_one_rule_and_of_the_story_of_a_pair(world: World) -> None:
    pairs = {row["id"]: row for row in cloze(world)}

    asked = list(endings(world))

    assert len(asked) > len(world.cloze) / 3
    for row in asked:
        pair = pairs[row["id"]]
        assert (row["context"], row["right"]) == (pair["context"], pair["right"])
        assert row["wrong"][0] == pair["wrong"]
        every = [row["right"], *row["wrong"]]
        assert len(set(every)) == 4
        assert all(world.guard().passes(f"{row['context']} {ending}") for ending in every)


def test_every_spoken_fact_is_stated_in_training(world: World, said: list[Script]) -> None:
    stated = Counter(fact for script in said if script.split == "train" for fact in script.facts)

    assert set(stated) == {fact.id for fact in world.facts_of("spoken")}
    assert min(stated.values()) >= 5


def test_no_sentence_of_a_held_out_utterance_is_in_training(said: list[Script]) -> None:
    sentences: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for script in said:
        sentences[script.split].update(_sentences(script.text))
    texts = {
        split: {script.text for script in said if script.split == split} for split in sentences
    }

    assert not texts["train"] & texts["heldout"]
    assert {one for one in sentences["train"] & sentences["heldout"] if not is_stock(one)} == set()


def test_about_one_utterance_in_twelve_is_held_out(said: list[Script]) -> None:
    share = sum(script.split == "heldout" for script in said) / len(said)

    assert 0.05 < share < 0.12


def test_each_speaker_says_something_in_both_splits(said: list[Script]) -> None:
    assert len({script.speaker for script in said}) == 4
    assert len({(script.speaker, script.split) for script in said}) == 8


def test_half_of_what_is_held_out_may_be_said_by_voices_of_their_own(
    world: World, said: list[Script]
) -> None:
    other = replace(world, has_unseen_voices=True)

    scripts_of_both = list(zip(said, scripts(other), strict=False))

    assert all(one.text == same.text and one.split == same.split for one, same in scripts_of_both)
    heldout = [one.speaker for _, one in scripts_of_both if one.split == "heldout"]
    trained = {one.speaker for _, one in scripts_of_both if one.split == "train"}
    assert trained == set(SPEAKERS)
    assert set(heldout) == {*SPEAKERS, *UNSEEN_SPEAKERS}
    assert 0.35 < sum(name in UNSEEN_SPEAKERS for name in heldout) / len(heldout) < 0.65


def test_sentences_are_short(texts: Texts) -> None:
    lengths = {
        len(sentence.split())
        for told in texts.values()
        for text in told
        for sentence in _sentences(text)
    }

    assert max(lengths) <= 12


def test_no_document_tells_a_story_of_the_cloze_pairs(
    world: World, stories: list[dict[str, Any]], said: list[Script]
) -> None:
    kept = {story.text for story in world.cloze}

    assert not any(story in row["text"] for row in stories for story in kept)
    assert not any(story in script.text for script in said for story in kept)


def test_only_documents_of_written_facts_stay_written(world: World) -> None:
    rows = [
        *fact_documents(world, "written", 5),
        *fact_documents(world, "woven", 5),
        *story_documents(world, 5),
    ]

    assert [row["may_interleave"] for row in rows] == [False] * 5 + [True] * 10
    media = {fact.id: fact.medium for fact in world.facts}
    for row in rows[:10]:
        assert {media[fact] for fact in row["facts"]} == {row["id"].split("-")[0]}


RIGHT_CASES: dict[str, Iterable[tuple[str, str]]] = {
    "state": [(f"tom is {state}.", ending.format(p="tom")) for state, ending in STATES.items()],
    "weather": [
        (f"tom is out in the {now}.", f"now tom is {end}.") for now, end in WEATHER.items()
    ],
    "habit": [
        (f"tom goes to the {place}.", f"there tom {habit}.") for place, habit in HABITS.items()
    ],
    "diet": [
        (f"a {animal} comes to tom.", f"tom gives it some {food}.")
        for animal, food in DIETS.items()
    ],
    "hour": [(f"it is {hour}.", f"tom sees the {light}.") for hour, light in HOURS.items()],
}


@pytest.mark.parametrize("rule", sorted(RIGHT_CASES))
def test_the_ending_of_a_story_follows_from_its_case(rule: str) -> None:
    rights = dict(RIGHT_CASES[rule])

    seen = set()
    for index in range(200):
        plot = RULES[rule](Cast("tom", "lucy"), Draws(0, index))
        assert plot.right == rights[plot.premise[0]]
        assert plot.every_wrong[0] in set(rights.values()) - {plot.right}
        seen.add(plot.premise[0])

    assert seen == set(rights)


def test_whoever_is_given_a_thing_has_it() -> None:
    plot = RULES["gift"](Cast("tom", "lucy"), Draws(0, 1))
    thing = words_of(plot.premise[0])[-1]

    assert plot.premise[1] == f"tom gives the {thing} to lucy."
    assert plot.right == f"now lucy has the {thing}."
    assert plot.every_wrong[0] == f"now tom has the {thing}."


def test_a_thing_is_found_where_it_was_lost() -> None:
    plot = RULES["loss"](Cast("tom", "lucy"), Draws(0, 1))
    place = words_of(plot.premise[0])[-1]

    assert plot.right == f"lucy finds it at the {place}."
    assert words_of(plot.every_wrong[0])[:-1] == words_of(plot.right)[:-1]
    assert plot.every_wrong[0] != plot.right


def test_cloze_pairs_cover_stories_and_the_facts_of_each_medium(world: World) -> None:
    rows = list(cloze(world))

    assert Counter(row["group"] for row in rows) == {
        "story": 120,
        "written": 128,
        "woven": 128,
        "spoken": 128,
    }
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row["right"] != row["wrong"] for row in rows)
    assert {row["split"] for row in rows} == {"heldout"}


def test_a_wrong_answer_is_one_of_the_same_medium_and_relation(world: World) -> None:
    for row in cloze(world):
        if row["group"] != "story":
            answers = {fact.answer for fact in world.facts_of(row["group"])}
            assert answers & phrases(row["right"])
            assert answers & phrases(row["wrong"])


def test_only_the_context_of_a_fact_says_whose_it_is(world: World) -> None:
    for row in cloze(world):
        if row["group"] != "story":
            person = row["id"].split("-")[0]
            assert person in words_of(row["context"])
            assert person not in words_of(row["right"]) + words_of(row["wrong"])


def test_each_fact_is_asked_for_once(world: World) -> None:
    rows = {row["id"]: row for row in questions(world)}

    assert set(rows) == {fact.id for fact in world.facts}
    assert all(
        rows[fact.id]["answers"] == [fact.answer] and rows[fact.id]["group"] == fact.medium
        for fact in world.facts
    )


def test_held_out_dialogues_ask_in_other_words(world: World) -> None:
    asked: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for row in dialogues(world, 600):
        asked[row["split"]].update(turn["text"] for turn in row["turns"] if turn["role"] == "user")

    assert not asked["train"] & asked["heldout"]
    assert len(asked["heldout"]) > 20


def test_answers_have_at_most_ten_words(world: World) -> None:
    answers = [
        turn["text"]
        for row in dialogues(world, 400)
        for turn in row["turns"]
        if turn["role"] == "assistant"
    ]

    assert max(len(answer.split()) for answer in answers) <= 10


def test_rule_questions_are_about_two_people_at_most() -> None:
    draws = Draws(3)
    for _ in range(50):
        question, answer = ask_rule(draws)
        assert 1 <= len(set(words_of(question)) & set(PEOPLE)) <= 2
        assert set(words_of(answer)) & set(PEOPLE) <= set(words_of(question))


def test_draws_are_named_and_repeat() -> None:
    assert Draws(0, "a", 1).shuffled(range(9)) == Draws(0, "a", 1).shuffled(range(9))
    assert Draws(0, "a", 1).shuffled(range(9)) != Draws(0, "a", 2).shuffled(range(9))
    assert draw_cast(Draws(1)).first != draw_cast(Draws(1)).second


def test_hashed_shares_are_even() -> None:
    shares = [hashed_share(f"text {index}", 0) for index in range(2000)]

    assert sum(share < 0.25 for share in shares) == pytest.approx(500, abs=80)
    assert 0 <= min(shares) <= max(shares) < 1


def _sentences(text: str) -> list[str]:
    return text.replace("? ", "?|").replace(". ", ".|").split("|")
