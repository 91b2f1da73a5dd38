"""The services behind the pages, opened once a server."""

import streamlit as st

from interloom.bootstrap import Services, connect
from interloom.config.settings import load_settings


@st.cache_resource(show_spinner=False)
def services() -> Services:
    """Catalog and store of this installation, read from the environment."""
    return connect(load_settings())
