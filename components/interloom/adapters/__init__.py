"""The ports made real, one third party each."""
