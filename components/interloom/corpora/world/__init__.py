"""The starter world: a small closed world with rules, its texts and its speech."""
