"""Speech-text language-model pre-training: the library behind the flows and dashboards."""
