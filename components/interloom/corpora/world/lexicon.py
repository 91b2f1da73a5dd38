"""The words of the starter world: few, short, and easy to tell apart by ear."""

PEOPLE = (
    "bella", "david", "emma", "fred", "gina", "hugo", "ivan", "jane", "kate", "leo", "lucy",
    "mark", "maya", "nora", "oscar", "otto", "paul", "peter", "rick", "rosa", "sam", "tom",
    "vera", "zoe",
)  # fmt: skip
COLOURS = ("black", "blue", "brown", "gold", "green", "pink", "red", "white")
ANIMALS = (
    "bear", "cat", "crow", "dog", "fox", "frog", "goat", "horse", "lamb", "mouse", "pig", "snake",
)  # fmt: skip
SIZES = ("big", "dark", "new", "quiet", "round", "small", "tall", "wide")
PLACES = (
    "bridge", "castle", "church", "farm", "forest", "hill", "lake", "park", "river", "school",
    "shop", "tower",
)  # fmt: skip
TASTES = ("fresh", "soft", "sour", "sweet", "thick", "warm")
FOODS = (
    "beans", "bread", "cake", "cheese", "corn", "fish", "jam", "nuts", "pie", "plums", "rice",
    "soup",
)  # fmt: skip
THINGS = (
    "bag", "bell", "boat", "coat", "cup", "doll", "drum", "hat", "kite", "lamp", "ring", "spoon",
)  # fmt: skip


def words_of(text: str) -> list[str]:
    """The words of a text, without punctuation."""
    return [word.strip(".,?") for word in text.split()]
