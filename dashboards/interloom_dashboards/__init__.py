"""Streamlit pages: a page draws what a view function returned."""
