"""Spoken dialogues, fine-tuning, the chatbot."""
